/* Preloaded into one process of a test: its disk fails, or its clock is another.
 *
 * DFS_TEST_CLOCK_S=N: CLOCK_REALTIME is N seconds ahead (N < 0: behind). The monotonic clock is left alone.
 *
 * DFS_TEST_DISK=FILE: FILE says what fails, a line each; it is looked at for every call, and no file is no fault:
 *     read ERRNO TEXT     pread and sendfile of files with TEXT in their path
 *     slow MS TEXT        the same take so much longer
 *     write ERRNO TEXT    whatever changes such a file, or a name in such a directory, and opening one to write
 * Calls are caught by a seccomp filter that turns them into SIGSYS, because not all of them go through the C library.
 * The handler refuses the call, or makes it, from the one place that the filter lets pass. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static long ahead_s;
static const char *rules;

/* ---- the clock */

int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += ahead_s;
    return (int)result;
}

int gettimeofday(struct timeval *time, void *zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}

/* ---- the disk */

/* A call that the filter lets pass: it looks at where the call returns to. */
long faulty_call(long number, unsigned long long, unsigned long long, unsigned long long, unsigned long long,
                 unsigned long long, unsigned long long);
extern const char faulty_called[] __attribute__((visibility("hidden")));
#if defined(__x86_64__)
__asm__(".text\n.hidden faulty_called\n.globl faulty_call, faulty_called\nfaulty_call:\n"
        "mov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\nmov %r8, %r10\nmov %r9, %r8\n"
        "mov 8(%rsp), %r9\nsyscall\nfaulty_called: ret\n");
#elif defined(__aarch64__)
__asm__(".text\n.hidden faulty_called\n.globl faulty_call\n.globl faulty_called\nfaulty_call:\n"
        "mov x8, x0\nmov x0, x1\nmov x1, x2\nmov x2, x3\nmov x3, x4\nmov x4, x5\nmov x5, x6\n"
        "svc #0\nfaulty_called: ret\n");
#else
#error "not for this processor"
#endif

enum what { READ_FD, WRITE_FD, WRITE_PATH, OPEN };

static const struct { int number; enum what what; int argument; } calls[] = {
    {SYS_pread64, READ_FD, 0}, {SYS_sendfile, READ_FD, 1},
    {SYS_pwrite64, WRITE_FD, 0}, {SYS_write, WRITE_FD, 0}, {SYS_writev, WRITE_FD, 0},
    {SYS_ftruncate, WRITE_FD, 0}, {SYS_fallocate, WRITE_FD, 0}, {SYS_fsync, WRITE_FD, 0},
    {SYS_fdatasync, WRITE_FD, 0},
    {SYS_openat, OPEN, 1}, {SYS_mkdirat, WRITE_PATH, 1}, {SYS_unlinkat, WRITE_PATH, 1},
    {SYS_renameat2, WRITE_PATH, 1},
#ifdef SYS_renameat
    {SYS_renameat, WRITE_PATH, 1},
#endif
#ifdef SYS_rename
    {SYS_open, OPEN, 0}, {SYS_rename, WRITE_PATH, 0}, {SYS_unlink, WRITE_PATH, 0}, {SYS_mkdir, WRITE_PATH, 0},
#endif
};
#define CALLS (sizeof calls / sizeof calls[0])

static int number_of(const char *name) {
    if (!strcmp(name, "EIO")) return EIO;
    if (!strcmp(name, "EROFS")) return EROFS;
    if (!strcmp(name, "ENOSPC")) return ENOSPC;
    return atoi(name);
}

/* The error, or the time in ms, that the rules have for this kind of access to this path; 0: none. */
static int ruled(const char *access, const char *path) {
    char text[1024], kind[16], error[16], part[512];
    int fd = (int)faulty_call(SYS_openat, AT_FDCWD, (unsigned long long)rules, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = 0;
    for (char *line = text; line && *line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (sscanf(line, "%15s %15s %511s", kind, error, part) == 3 && !strcmp(kind, access) && strstr(path, part))
            return number_of(error);
    }
    return 0;
}

static int judge(const struct seccomp_data *call) {
    char link[64], path[1024];
    for (size_t n = 0; n < CALLS; n++) {
        if (calls[n].number != call->nr) continue;
        unsigned long long argument = call->args[calls[n].argument];
        if (calls[n].what == WRITE_PATH) return ruled("write", (const char *)argument);
        if (calls[n].what == OPEN) {
            unsigned long long flags = call->args[calls[n].argument + 1];
            int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
            return writes ? ruled("write", (const char *)argument) : 0;
        }
        snprintf(link, sizeof link, "/proc/self/fd/%d", (int)argument);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length < 0) return 0;
        path[length] = 0;
        if (calls[n].what != READ_FD) return ruled("write", path);
        usleep((useconds_t)ruled("slow", path) * 1000);
        return ruled("read", path);
    }
    return 0;
}

static void caught(int signal, siginfo_t *info, void *context) {
    (void)signal;
    ucontext_t *at = context;
    struct seccomp_data call = {.nr = info->si_syscall};
#if defined(__x86_64__)
    greg_t *regs = at->uc_mcontext.gregs;
    const int order[] = {REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9};
    for (int n = 0; n < 6; n++) call.args[n] = (unsigned long long)regs[order[n]];
#else
    unsigned long long *regs = at->uc_mcontext.regs;
    for (int n = 0; n < 6; n++) call.args[n] = regs[n];
#endif
    int error = judge(&call);
    const unsigned long long *a = (unsigned long long *)call.args;
    long result = error ? -error : faulty_call(call.nr, a[0], a[1], a[2], a[3], a[4], a[5]);
#if defined(__x86_64__)
    regs[REG_RAX] = result;
#else
    regs[0] = (unsigned long long)result;
#endif
}

static void die(const char *what) {
    perror(what);
    _exit(99);
}

static void catch_calls(void) {
    const unsigned long long after = (unsigned long long)faulty_called;
    struct sock_filter filter[CALLS + 8];
    size_t n = 0;
    const unsigned where = offsetof(struct seccomp_data, instruction_pointer);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, where);
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)after, 0, 3);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, where + 4);
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(after >> 32), 0, 1);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t call = 0; call < CALLS; call++)
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[call].number, CALLS - call, 0);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    struct sock_fprog program = {(unsigned short)n, filter};
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
    if (sigaction(SIGSYS, &action, NULL)) die("SIGSYS");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) die("no_new_privs");
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) die("seccomp");
}

__attribute__((constructor)) static void begin(void) {
    const char *clock = getenv("DFS_TEST_CLOCK_S");
    if (clock) ahead_s = atol(clock);
    rules = getenv("DFS_TEST_DISK");
    if (rules) catch_calls();
}
