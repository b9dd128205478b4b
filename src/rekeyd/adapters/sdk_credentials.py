"""What the AWS SDKs and the AWS CLI expect from a `credential_process`.

https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
"""

import json
from datetime import datetime

from rekeyd.ports import Pair


def credentials_document(pair: Pair, *, expires_at: datetime) -> str:
    """It holds the secret: for the standard output that an SDK reads, and for nothing else.

    `Version` is a number (botocore refuses "1"). Without `Expiration` a running session would never ask again, and
    go on with the old key until it is dead.
    """
    return json.dumps(
        {
            "Version": 1,
            "AccessKeyId": pair.access_key_id,
            "SecretAccessKey": pair.secret_access_key.reveal(),
            "Expiration": f"{expires_at:%Y-%m-%dT%H:%M:%SZ}",
        }
    )
