/* Preloaded into brokers: a wall clock that is wrong, and a disk that lies about what it flushed.

   $SHIM names a file of two int64: nanoseconds that the wall clock is ahead, and whether flushes
   are answered without being done. The file is mapped, so both can change under a running broker.
   The monotonic clock is right. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static volatile int64_t *page;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SHIM");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(0, 16, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED)
        page = mapped;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *found) {
    int code = syscall(SYS_clock_gettime, clock, found);
    if (!code && page && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t now = found->tv_sec * SECOND + found->tv_nsec + page[0];
        found->tv_sec = now / SECOND;
        found->tv_nsec = now % SECOND;
    }
    return code;
}

time_t time(time_t *found) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (found)
        *found = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *found, void *zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    found->tv_sec = now.tv_sec;
    found->tv_usec = now.tv_nsec / 1000;
    return 0;
}

static int flush(long call, int file) {
    return page && page[1] ? 0 : (int)syscall(call, file);
}

int fsync(int file) { return flush(SYS_fsync, file); }
int fdatasync(int file) { return flush(SYS_fdatasync, file); }
int syncfs(int file) { return flush(SYS_syncfs, file); }
