/* Has other threads than the first wait a moment after every so-manieth unlocking of a mutex, once `late_unlock` was
 * called with that number: what may happen there at any time, and hardly ever does, happens often. To be preloaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int one_in = 0;
static __thread unsigned seed = 0;

void late_unlock(int number) { one_in = number; }

int pthread_mutex_unlock(pthread_mutex_t *mutex) {
    static int (*real)(pthread_mutex_t *) = 0;
    if (!real) real = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_unlock");
    int result = real(mutex);
    pid_t thread = (pid_t)syscall(SYS_gettid);
    if (one_in && thread != getpid()) {
        if (!seed) seed = (unsigned)thread;
        if (rand_r(&seed) % one_in == 0) usleep(300);
    }
    return result;
}
