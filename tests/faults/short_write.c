/* Loaded before the C library: every N-th pwrite64 of a file whose path ends with a suffix is cut in half, for real.
 *   FAULT_EVERY   N
 *   FAULT_SUFFIX  the end of the path, such as ".wal"
 *   FAULT_COUNT   a file that gets one byte for each write that was cut
 *   FAULT_LIE     if set, the caller is told that everything was written (a negative control)
 *   FAULT_EIO     if set, the caller is told that it failed (another)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef ssize_t (*pwrite_fn)(int, const void *, size_t, off64_t);

static int is_meant(int fd) {
    const char *suffix = getenv("FAULT_SUFFIX");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    size_t wanted = suffix ? strlen(suffix) : 0;
    return length > 0 && wanted > 0 && (size_t)length >= wanted && !memcmp(path + length - wanted, suffix, wanted);
}

static void count(void) {
    const char *path = getenv("FAULT_COUNT");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    if (fd >= 0) {
        if (write(fd, "x", 1) != 1) abort();
        close(fd);
    }
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    static _Atomic unsigned long calls;
    pwrite_fn real = (pwrite_fn)dlsym(RTLD_NEXT, "pwrite64");
    const char *every = getenv("FAULT_EVERY");
    if (!every || length < 2 || !is_meant(fd) || ++calls % strtoul(every, NULL, 10) != 0)
        return real(fd, bytes, length, offset);
    count();
    ssize_t written = real(fd, bytes, length / 2, offset);
    if (written > 0 && getenv("FAULT_EIO")) {
        errno = EIO;
        return -1;
    }
    return written > 0 && getenv("FAULT_LIE") ? (ssize_t)length : written;
}
