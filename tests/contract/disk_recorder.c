/* Records what a process asks of the disk below $DISK_FOLDER, in order, into the file $DISK_RECORD (LD_PRELOAD).

   A record is: kind (1 byte), length of the path (4), offset (8), length of the data (4), path, data; little-endian.
   Kinds: c created, w written, t truncated (offset is the new size), u unlinked, r renamed (data is the new name),
   d directory made, s synced; and a for what was said on stdout, so that it has its place in the order.
   What a process says without words, as a write to memory that is mapped, is not seen. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int record = -1;

static void note(char kind, const char *path, int64_t offset, const void *data, uint32_t length) {
    const char *folder = getenv("DISK_FOLDER"), *file = getenv("DISK_RECORD");
    if (!folder || !file || (kind != 'a' && strncmp(path, folder, strlen(folder)))) return;
    if (record < 0) record = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    uint32_t size = strlen(path), whole = 17 + size + length;
    char *line = malloc(whole);
    line[0] = kind;
    memcpy(line + 1, &size, 4), memcpy(line + 5, &offset, 8), memcpy(line + 13, &length, 4);
    memcpy(line + 17, path, size);
    if (length) memcpy(line + 17 + size, data, length);
    if (syscall(SYS_write, record, line, whole) != whole) abort();
    free(line);
}

static void note_fd(char kind, int fd, int64_t offset, const void *data, uint32_t length) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return;
    path[size] = 0;
    note(kind, path, offset, data, length);
}

/* The call itself and its record are one step: nothing of another thread comes between. */
#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define DO(type, call, noted) \
    pthread_mutex_lock(&lock); type did = (call); if (did >= 0) { noted; } pthread_mutex_unlock(&lock); return did

ssize_t write(int fd, const void *data, size_t length) {
    REAL(write);
    off_t at = fd > 2 ? lseek(fd, 0, SEEK_CUR) : 0;
    DO(ssize_t, real(fd, data, length), if (fd == 1) note('a', "", 0, data, did); else note_fd('w', fd, at, data, did));
}
#define PWRITE(name) \
    ssize_t name(int fd, const void *data, size_t length, off_t at) \
        { REAL(name); DO(ssize_t, real(fd, data, length, at), note_fd('w', fd, at, data, did)); }
PWRITE(pwrite)
PWRITE(pwrite64)
int ftruncate(int fd, off_t size) { REAL(ftruncate); DO(int, real(fd, size), note_fd('t', fd, size, 0, 0)); }
int ftruncate64(int fd, off_t size) { REAL(ftruncate64); DO(int, real(fd, size), note_fd('t', fd, size, 0, 0)); }
int fsync(int fd) { REAL(fsync); DO(int, real(fd), note_fd('s', fd, 0, 0, 0)); }
int fdatasync(int fd) { REAL(fdatasync); DO(int, real(fd), note_fd('s', fd, 0, 0, 0)); }
int unlink(const char *path) { REAL(unlink); DO(int, real(path), note('u', path, 0, 0, 0)); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); DO(int, real(path, mode), note('d', path, 0, 0, 0)); }
int rename(const char *from, const char *to)
    { REAL(rename); DO(int, real(from, to), note('r', from, 0, to, strlen(to))); }
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        int made = (flags & O_CREAT) && access(path, F_OK); \
        DO(int, real(path, flags, mode), if (made) note_fd('c', did, 0, 0, 0); \
           else if (flags & O_TRUNC) note_fd('t', did, 0, 0, 0)); }
OPEN(open)
OPEN(open64)
