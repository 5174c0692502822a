/* A clock by which everything takes long: each look at it is CLOCK_STEP milliseconds later than it would be. Preloaded, it makes a program
 * whose work is short believe that it isn't. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static int (*real)(clockid_t, struct timespec *);
    static atomic_long looks;

    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    const char *step = getenv("CLOCK_STEP");
    if (result == 0 && clock == CLOCK_MONOTONIC && step)
    {
        long ahead = atomic_fetch_add(&looks, atol(step));
        time->tv_nsec += ahead % 1000 * 1000000;
        time->tv_sec += ahead / 1000 + time->tv_nsec / 1000000000;
        time->tv_nsec %= 1000000000;
    }
    return result;
}
