/* Notes what a process changes below a folder and has not synced yet, so that a test can take it back: a power cut.
 *
 * Preloaded into the server. POWERCUT_ROOT is the folder, POWERCUT_NOTES another one on the same file system. In there, `journal`
 * gets an entry before each change (with the bytes that were there) and after each successful sync; files that lose a name are kept
 * as `kept-NUMBER`. Whoever reads it (revert.rs) needs nothing else. The process may be killed at any moment: an entry without its
 * change takes back nothing (so a name that is there is never said to be made), a sync without its entry counts as none, and nobody
 * was told of it yet.
 *
 * Only calls through the C library are seen: that is why rustix goes through it under test (Cargo.toml).
 * sync_file_range is no sync: it flushes neither the drive nor metadata. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, LENGTH, SYNC, CREATE, LINK, UNLINK, RENAME, MKDIR, RMDIR, FAILED, SYNC_ALL };

/* An entry: this, then both names, then the bytes. */
struct entry {
    uint32_t magic, kind;
    uint64_t number;        /* counts from 1 */
    uint64_t inode;         /* of the file; of the folder that holds the name */
    uint64_t other;         /* RENAME: of the folder with the new name; RMDIR: of the folder itself; WRITE, LENGTH: length before */
    uint64_t offset;        /* WRITE: where; LENGTH: length after; SYNC: the last entry it covers; FAILED: the entry that failed;
                             * UNLINK, RENAME: the number of the file kept, 0 is none */
    uint64_t size;          /* WRITE: of the change; RENAME: the inode of what is renamed */
    uint32_t name, new_name, bytes, zero;
};

#define MAGIC 0x54554350u
#define TRACKED (1u << 16)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], notes[PATH_MAX];
static int journal = -1;
static uint64_t count, kept;
static uint64_t tracked[TRACKED];

#define REAL(type, name, ...) static type (*real_##name)(__VA_ARGS__)
REAL(ssize_t, write, int, const void *, size_t);
REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
REAL(ssize_t, writev, int, const struct iovec *, int);
REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
REAL(int, ftruncate, int, off_t);
REAL(int, fallocate, int, int, off_t, off_t);
REAL(int, openat, int, const char *, int, ...);
REAL(int, fsync, int);
REAL(int, fdatasync, int);
REAL(void, sync, void);
REAL(int, syncfs, int);
REAL(int, renameat2, int, const char *, int, const char *, unsigned);
REAL(int, linkat, int, const char *, int, const char *, int);
REAL(int, unlinkat, int, const char *, int);
REAL(int, mkdirat, int, const char *, mode_t);

static void die(const char *what) {
    dprintf(2, "powercut: %s: %s\n", what, strerror(errno));
    abort();
}

static void *find(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) die(name);
    return found;
}

__attribute__((constructor)) static void begin(void) {
    real_write = find("write");
    real_pwrite = find("pwrite64");
    real_writev = find("writev");
    real_pwritev = find("pwritev64");
    real_ftruncate = find("ftruncate64");
    real_fallocate = find("fallocate64");
    real_openat = find("openat64");
    real_fsync = find("fsync");
    real_fdatasync = find("fdatasync");
    real_sync = find("sync");
    real_syncfs = find("syncfs");
    real_renameat2 = find("renameat2");
    real_linkat = find("linkat");
    real_unlinkat = find("unlinkat");
    real_mkdirat = find("mkdirat");
    const char *folder = getenv("POWERCUT_ROOT"), *beside = getenv("POWERCUT_NOTES");
    if (!folder || !beside || !realpath(folder, root) || !realpath(beside, notes)) die("POWERCUT_ROOT, POWERCUT_NOTES");
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/journal", notes);
    int fd = real_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    journal = fcntl(fd, F_DUPFD_CLOEXEC, 700);
    if (journal < 0) die(path);
    close(fd);
    /* A process that is started for a side job must not go on with this journal. */
    unsetenv("LD_PRELOAD");
}

/* Appends an entry; says its number. The lock is held. */
static uint64_t note(struct entry entry, const char *name, const char *new_name, const void *bytes, size_t size) {
    entry.magic = MAGIC;
    entry.number = ++count;
    entry.name = name ? strlen(name) : 0;
    entry.new_name = new_name ? strlen(new_name) : 0;
    entry.bytes = size;
    struct iovec parts[] = {
        {&entry, sizeof entry}, {(void *)name, entry.name}, {(void *)new_name, entry.new_name}, {(void *)bytes, size}};
    ssize_t whole = sizeof entry + entry.name + entry.new_name + size;
    if (real_writev(journal, parts, 4) != whole) die("journal");
    return entry.number;
}

static void failed(uint64_t number) {
    int error = errno;
    note((struct entry){.kind = FAILED, .offset = number}, 0, 0, 0, 0);
    errno = error;
}

static int below_root(const char *path) {
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* The folder and the name in it that a path means; 0 if it isn't below the root. */
static int resolve(int at, const char *path, char *folder, const char **name) {
    char text[PATH_MAX], base[PATH_MAX] = "";
    if (path[0] != '/') {
        char link[64];
        snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
        ssize_t size = readlink(link, base, sizeof base - 1);
        if (size < 0) return 0;
        base[size] = 0;
        strncat(base, "/", sizeof base - strlen(base) - 1);
    }
    if (snprintf(text, sizeof text, "%s%s", base, path) >= (int)sizeof text) return 0;
    size_t length = strlen(text);
    while (length > 1 && text[length - 1] == '/') text[--length] = 0;
    const char *slash = strrchr(path, '/');
    *name = slash && slash[1] ? slash + 1 : slash ? "" : path;
    *strrchr(text, '/') = 0;
    return **name && realpath(text[0] ? text : "/", folder) && below_root(folder);
}

static uint64_t inode_at(int at, const char *path) {
    struct stat stat;
    return fstatat(at, path, &stat, AT_SYMLINK_NOFOLLOW) == 0 ? stat.st_ino : 0;
}

static uint64_t inode_of(const char *path) { return inode_at(AT_FDCWD, path); }

static void track(uint64_t inode) {
    for (unsigned at = inode % TRACKED, tries = 0; tries < TRACKED; at = (at + 1) % TRACKED, tries++) {
        if (tracked[at] == inode) return;
        if (!tracked[at]) {
            tracked[at] = inode;
            return;
        }
    }
    die("too many files");
}

/* Whether a descriptor is a file (or folder) below the root; the lock is held. */
static int is_tracked(int fd, struct stat *stat) {
    if (fd < 0 || fd == journal || fstat(fd, stat) < 0) return 0;
    if (S_ISDIR(stat->st_mode)) {
        char link[64], path[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t size = readlink(link, path, sizeof path - 1);
        if (size < 0) return 0;
        path[size] = 0;
        return below_root(path);
    }
    if (!S_ISREG(stat->st_mode)) return 0;
    for (unsigned at = stat->st_ino % TRACKED; tracked[at]; at = (at + 1) % TRACKED)
        if (tracked[at] == stat->st_ino) return 1;
    return 0;
}

/* Bytes of a file; the descriptor may be open for writing only. */
static void *read_range(int fd, off_t offset, size_t size) {
    char link[64], *bytes = calloc(1, size + 1);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int own = real_openat(AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
    if (!bytes || own < 0 || pread(own, bytes, size, offset) != (ssize_t)size) die("can't read what is there");
    close(own);
    return bytes;
}

/* Notes a change of `size` bytes at `offset`. */
static void note_write(int fd, const struct stat *stat, off_t offset, size_t size) {
    size_t there = offset >= stat->st_size ? 0 : stat->st_size - offset < (off_t)size ? (size_t)(stat->st_size - offset) : size;
    void *bytes = there ? read_range(fd, offset, there) : NULL;
    note((struct entry){.kind = WRITE, .inode = stat->st_ino, .other = stat->st_size, .offset = offset, .size = size}, 0, 0, bytes, there);
    free(bytes);
}

static void note_length(int fd, const struct stat *stat, off_t length) {
    size_t cut = length < stat->st_size ? stat->st_size - length : 0;
    void *bytes = cut ? read_range(fd, length, cut) : NULL;
    note((struct entry){.kind = LENGTH, .inode = stat->st_ino, .other = stat->st_size, .offset = length}, 0, 0, bytes, cut);
    free(bytes);
}

/* A write through a descriptor that syncs by itself. */
static void note_if_synced(int fd, const struct stat *stat) {
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_DSYNC)) note((struct entry){.kind = SYNC, .inode = stat->st_ino, .offset = count}, 0, 0, 0, 0);
}

/* Where a write without offset goes. */
static off_t position(int fd, const struct stat *stat) {
    return fcntl(fd, F_GETFL) & O_APPEND ? stat->st_size : lseek(fd, 0, SEEK_CUR);
}

static size_t total(const struct iovec *parts, int number) {
    size_t size = 0;
    for (int at = 0; at < number; at++) size += parts[at].iov_len;
    return size;
}

/* Runs a write under the lock if it goes to a file of ours. */
#define WRITING(fd, at, length, call)                        \
    struct stat stat;                                        \
    pthread_mutex_lock(&lock);                               \
    if (!is_tracked(fd, &stat)) {                            \
        pthread_mutex_unlock(&lock);                         \
        return call;                                         \
    }                                                        \
    note_write(fd, &stat, at, length);                       \
    ssize_t written = call;                                  \
    int error = errno;                                       \
    if (written >= 0) note_if_synced(fd, &stat);             \
    pthread_mutex_unlock(&lock);                             \
    errno = error;                                           \
    return written

ssize_t write(int fd, const void *bytes, size_t size) {
    WRITING(fd, position(fd, &stat), size, real_write(fd, bytes, size));
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
    WRITING(fd, position(fd, &stat), total(parts, number), real_writev(fd, parts, number));
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset) {
    WRITING(fd, offset, size, real_pwrite(fd, bytes, size, offset));
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return pwrite64(fd, bytes, size, offset); }

ssize_t pwritev64(int fd, const struct iovec *parts, int number, off_t offset) {
    WRITING(fd, offset, total(parts, number), real_pwritev(fd, parts, number, offset));
}

ssize_t pwritev(int fd, const struct iovec *parts, int number, off_t offset) { return pwritev64(fd, parts, number, offset); }

int ftruncate64(int fd, off_t length) {
    struct stat stat;
    pthread_mutex_lock(&lock);
    if (is_tracked(fd, &stat)) note_length(fd, &stat, length);
    int result = real_ftruncate(fd, length);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fallocate64(int fd, int mode, off_t offset, off_t size) {
    struct stat stat;
    pthread_mutex_lock(&lock);
    if (is_tracked(fd, &stat) && mode != FALLOC_FL_KEEP_SIZE) {
        if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) die("fallocate of an unknown kind");
        note_write(fd, &stat, offset, size);
    }
    int result = real_fallocate(fd, mode, offset, size);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fallocate(int fd, int mode, off_t offset, off_t size) { return fallocate64(fd, mode, offset, size); }

/* Opens; notes a new name, and a file that is emptied. */
static int open_any(int at, const char *path, int flags, mode_t mode) {
    char folder[PATH_MAX];
    const char *name;
    if (!resolve(at, path, folder, &name)) return real_openat(at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat stat;
    uint64_t number = 0;
    int there = fstatat(at, path, &stat, 0) == 0;
    if (!there && (flags & O_CREAT)) {
        number = note((struct entry){.kind = CREATE, .inode = inode_of(folder)}, name, 0, 0, 0);
    } else if (there && (flags & O_TRUNC) && S_ISREG(stat.st_mode) && !(flags & O_EXCL)) {
        int fd = real_openat(at, path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            note_length(fd, &stat, 0);
            close(fd);
        }
    }
    int fd = real_openat(at, path, flags, mode);
    int error = errno;
    if (fd >= 0 && fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode)) track(stat.st_ino);
    if (fd < 0 && number) failed(number);
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define OPEN(at, path, flags)                                \
    mode_t mode = 0;                                         \
    if (flags & (O_CREAT | __O_TMPFILE)) {                   \
        va_list rest;                                        \
        va_start(rest, flags);                               \
        mode = va_arg(rest, mode_t);                         \
        va_end(rest);                                        \
    }                                                        \
    return open_any(at, path, flags, mode)

int open(const char *path, int flags, ...) { OPEN(AT_FDCWD, path, flags); }
int open64(const char *path, int flags, ...) { OPEN(AT_FDCWD, path, flags); }
int openat(int at, const char *path, int flags, ...) { OPEN(at, path, flags); }
int openat64(int at, const char *path, int flags, ...) { OPEN(at, path, flags); }
int creat(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* A sync covers what was written before it began. */
static int sync_any(int fd, int (*real)(int)) {
    struct stat stat;
    pthread_mutex_lock(&lock);
    int ours = is_tracked(fd, &stat);
    uint64_t covered = count;
    pthread_mutex_unlock(&lock);
    int result = real(fd);
    if (ours && result == 0) {
        pthread_mutex_lock(&lock);
        note((struct entry){.kind = SYNC, .inode = stat.st_ino, .offset = covered}, 0, 0, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

int fsync(int fd) { return sync_any(fd, real_fsync); }
int fdatasync(int fd) { return sync_any(fd, real_fdatasync); }

int syncfs(int fd) {
    pthread_mutex_lock(&lock);
    uint64_t covered = count;
    pthread_mutex_unlock(&lock);
    int result = real_syncfs(fd);
    pthread_mutex_lock(&lock);
    if (result == 0) note((struct entry){.kind = SYNC_ALL, .offset = covered}, 0, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

void sync(void) {
    pthread_mutex_lock(&lock);
    uint64_t covered = count;
    pthread_mutex_unlock(&lock);
    real_sync();
    pthread_mutex_lock(&lock);
    note((struct entry){.kind = SYNC_ALL, .offset = covered}, 0, 0, 0, 0);
    pthread_mutex_unlock(&lock);
}

/* Gives a file that is about to lose a name another one, outside; says its number, 0 if there is no such file. */
static uint64_t keep(int at, const char *path) {
    struct stat stat;
    char beside[PATH_MAX + 32];
    if (fstatat(at, path, &stat, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(stat.st_mode)) return 0;
    snprintf(beside, sizeof beside, "%s/kept-%llu", notes, (unsigned long long)++kept);
    if (real_linkat(at, path, AT_FDCWD, beside, 0) < 0) die(beside);
    return kept;
}

int renameat2(int at, const char *path, int new_at, const char *new_path, unsigned flags) {
    char folder[PATH_MAX], new_folder[PATH_MAX];
    const char *name, *new_name;
    int from = resolve(at, path, folder, &name), to = resolve(new_at, new_path, new_folder, &new_name);
    if (from != to) die("a rename over the root's border");
    if (!from) return real_renameat2(at, path, new_at, new_path, flags);
    pthread_mutex_lock(&lock);
    uint64_t replaced = keep(new_at, new_path);
    uint64_t number = note(
        (struct entry){.kind = RENAME, .inode = inode_of(folder), .other = inode_of(new_folder), .offset = replaced, .size = inode_at(at, path)},
        name, new_name, 0, 0);
    int result = real_renameat2(at, path, new_at, new_path, flags);
    if (result < 0) failed(number);
    pthread_mutex_unlock(&lock);
    return result;
}

int renameat(int at, const char *path, int new_at, const char *new_path) { return renameat2(at, path, new_at, new_path, 0); }
int rename(const char *path, const char *new_path) { return renameat2(AT_FDCWD, path, AT_FDCWD, new_path, 0); }

int linkat(int at, const char *path, int new_at, const char *new_path, int flags) {
    char folder[PATH_MAX];
    const char *name;
    if (!resolve(new_at, new_path, folder, &name)) return real_linkat(at, path, new_at, new_path, flags);
    pthread_mutex_lock(&lock);
    uint64_t number = inode_at(new_at, new_path) ? 0 : note((struct entry){.kind = LINK, .inode = inode_of(folder)}, name, 0, 0, 0);
    int result = real_linkat(at, path, new_at, new_path, flags);
    if (result < 0 && number) failed(number);
    pthread_mutex_unlock(&lock);
    return result;
}

int link(const char *path, const char *new_path) { return linkat(AT_FDCWD, path, AT_FDCWD, new_path, 0); }

int unlinkat(int at, const char *path, int flags) {
    char folder[PATH_MAX];
    const char *name;
    struct stat stat;
    if (!resolve(at, path, folder, &name)) return real_unlinkat(at, path, flags);
    pthread_mutex_lock(&lock);
    uint64_t number = 0;
    if (fstatat(at, path, &stat, AT_SYMLINK_NOFOLLOW) == 0 && (S_ISREG(stat.st_mode) || S_ISDIR(stat.st_mode))) {
        struct entry entry = {.kind = flags & AT_REMOVEDIR ? RMDIR : UNLINK, .inode = inode_of(folder), .other = stat.st_ino};
        entry.offset = flags & AT_REMOVEDIR ? 0 : keep(at, path);
        number = note(entry, name, 0, 0, 0);
    }
    int result = real_unlinkat(at, path, flags);
    if (result < 0 && number) failed(number);
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode) {
    char folder[PATH_MAX];
    const char *name;
    if (!resolve(at, path, folder, &name)) return real_mkdirat(at, path, mode);
    pthread_mutex_lock(&lock);
    uint64_t number = inode_at(at, path) ? 0 : note((struct entry){.kind = MKDIR, .inode = inode_of(folder)}, name, 0, 0, 0);
    int result = real_mkdirat(at, path, mode);
    if (result < 0 && number) failed(number);
    pthread_mutex_unlock(&lock);
    return result;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
