"""Run by Alembic: migrates over the connection, inside the transaction, that the journal hands in."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
