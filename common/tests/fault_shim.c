/* Counts what a process changes on disk below one folder, and fails at a chosen count. Preloaded by test_faults.py.

   fault_watch(folder)    begins to count the operations on paths below it
   fault_arm(n, mode)     at operation n (from 1): DIE kills the process as kill -9 does, half of a write done;
                          FULL lets this write and every later one fail with "no space left on device";
                          BROKEN lets this operation and every later one fail with "input/output error"
   fault_count()          operations so far
   fault_log(file)        from now on one line per operation is written there */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, DIE, FULL, BROKEN };

static char watched[PATH_MAX];
static int count, target, mode;
static FILE *log_file;

void fault_watch(const char *folder) { snprintf(watched, sizeof watched, "%s", folder); count = 0; }
void fault_arm(int n, int how) { target = n; mode = how; count = 0; }
int fault_count(void) { return count; }
void fault_log(const char *path) { log_file = fopen(path, "w"); }

static int below(const char *path) {
    return watched[0] && strncmp(path, watched, strlen(watched)) == 0;
}

/* Whether the operation has to fail; sets errno. */
static int fails(const char *name, const char *path, int is_write) {
    count++;
    if (log_file) { fprintf(log_file, "%s %s\n", name, path + strlen(watched)); fflush(log_file); }
    if (mode == DIE && count == target) { if (!is_write) kill(getpid(), SIGKILL); return 1; }
    if (mode == FULL && count >= target && is_write) { errno = ENOSPC; return 1; }
    if (mode == BROKEN && count >= target) { errno = EIO; return 1; }
    return 0;
}

static const char *path_of(int fd) {
    static __thread char path[PATH_MAX];
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return "";
    path[length] = 0;
    return path;
}

static const char *path_at(int folder, const char *name) {
    static __thread char path[2 * PATH_MAX];
    if (name[0] == '/' || folder == AT_FDCWD) return name;
    snprintf(path, sizeof path, "%s/%s", path_of(folder), name);
    return path;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *content, size_t size) {
    if (watched[0] && fd > 2 && below(path_of(fd)) && fails("write", path_of(fd), 1)) {
        if (mode == DIE) { REAL(write)(fd, content, size / 2); kill(getpid(), SIGKILL); }
        return -1;
    }
    return REAL(write)(fd, content, size);
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
    if (watched[0] && fd > 2 && below(path_of(fd)) && fails("writev", path_of(fd), 1)) {
        if (mode == DIE) { REAL(writev)(fd, parts, number / 2); kill(getpid(), SIGKILL); }
        return -1;
    }
    return REAL(writev)(fd, parts, number);
}

ssize_t pwrite64(int fd, const void *content, size_t size, off64_t offset) {
    if (watched[0] && below(path_of(fd)) && fails("pwrite64", path_of(fd), 1)) {
        if (mode == DIE) { REAL(pwrite64)(fd, content, size / 2, offset); kill(getpid(), SIGKILL); }
        return -1;
    }
    return REAL(pwrite64)(fd, content, size, offset);
}

#define ON_FD(name) \
    int name(int fd) { return watched[0] && below(path_of(fd)) && fails(#name, path_of(fd), 0) ? -1 : REAL(name)(fd); }
ON_FD(fsync)
ON_FD(fdatasync)

int rename(const char *old, const char *new) {
    return below(new) && fails("rename", new, 0) ? -1 : REAL(rename)(old, new);
}
int mkdir(const char *path, mode_t rights) {
    return below(path) && fails("mkdir", path, 0) ? -1 : REAL(mkdir)(path, rights);
}
int rmdir(const char *path) { return below(path) && fails("rmdir", path, 0) ? -1 : REAL(rmdir)(path); }
int unlink(const char *path) { return below(path) && fails("unlink", path, 0) ? -1 : REAL(unlink)(path); }
int unlinkat(int folder, const char *name, int flags) {
    return watched[0] && below(path_at(folder, name)) && fails("unlinkat", path_at(folder, name), 0)
        ? -1 : REAL(unlinkat)(folder, name, flags);
}

/* A new file: its creation is an operation as well. */
static int creates(int flags) { return (flags & O_CREAT) != 0; }
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t rights = creates(flags) ? va_arg(rest, mode_t) : 0; va_end(rest); \
        return creates(flags) && below(path) && fails(#name, path, 0) ? -1 : REAL(name)(path, flags, rights); \
    }
OPEN(open)
OPEN(open64)
