/*
 * Storage that takes its time, for any program that is started with this library in LD_PRELOAD.
 *
 * Every request to a regular file or block device waits before it is done, and any number may wait at
 * once, as on a network. Wrapping the C library's functions wouldn't do: Rust programs make some
 * calls themselves. So the kernel is asked (seccomp) to send SIGSYS instead of doing such a call; the handler
 * waits and makes the call from one place, from which the kernel lets it through. That costs a few
 * microseconds a request, of which the shortest delay worth measuring has a thousand.
 *
 * Requests are reads and writes of 4 KiB or more, by position or not, plain or vectored. Asking for holes,
 * fallocate and copy_file_range are requests too where DELAY_SEEKS is set. io_uring isn't there, since its
 * requests couldn't be seen. Nor can page faults of mapped files.
 *
 * DELAY_US: microseconds that a request waits. Without it nothing is changed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define LEAST 4096

/* The one place from which calls are let through: a call of any number with six arguments, whose result is
 * the kernel's. */
long delay_gate(long number, long a, long b, long c, long d, long e, long f);
extern char delay_gate_end[];

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
__asm__(".text\n.balign 64\n.globl delay_gate\n.hidden delay_gate\n.hidden delay_gate_end\n"
        "delay_gate:\n"
        "mov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\n"
        "mov %r8, %r10\nmov %r9, %r8\nmov 8(%rsp), %r9\nsyscall\nret\n"
        "delay_gate_end:\n");
#define NUMBER(context) ((context)->uc_mcontext.gregs[REG_RAX])
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
static long argument(ucontext_t *context, int index)
{
    static const int registers[] = {REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9};
    return context->uc_mcontext.gregs[registers[index]];
}
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
__asm__(".text\n.balign 64\n.globl delay_gate\n.hidden delay_gate\n.hidden delay_gate_end\n"
        "delay_gate:\n"
        "mov x8, x0\nmov x0, x1\nmov x1, x2\nmov x2, x3\nmov x3, x4\nmov x4, x5\nmov x5, x6\n"
        "svc #0\nret\n"
        "delay_gate_end:\n");
#define RESULT(context) ((context)->uc_mcontext.regs[0])
static long argument(ucontext_t *context, int index)
{
    return (long)context->uc_mcontext.regs[index];
}
#else
#error "this processor's way of calling the kernel isn't known here"
#endif

static struct timespec pause_of_a_request;

static long ask(long number, long a, long b, long c, long d)
{
    return delay_gate(number, a, b, c, d, 0, 0);
}

/* A futex, since cowhide lets the kernel refuse it all other ways to wait. */
static void wait_a_request(void)
{
    uint32_t word = 0;
    struct timespec start, now, left = pause_of_a_request;
    ask(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&start, 0, 0);
    while (ask(SYS_futex, (long)&word, FUTEX_WAIT_PRIVATE, 0, (long)&left) == -EINTR) {
        ask(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0, 0);
        int64_t rest = (pause_of_a_request.tv_sec + start.tv_sec - now.tv_sec) * 1000000000LL +
                       pause_of_a_request.tv_nsec + start.tv_nsec - now.tv_nsec;
        if (rest <= 0)
            return;
        left.tv_sec = rest / 1000000000;
        left.tv_nsec = rest % 1000000000;
    }
}

static int is_file(int fd)
{
    struct stat meta;
    return ask(SYS_fstat, fd, (long)&meta, 0, 0) == 0 &&
           (S_ISREG(meta.st_mode) || S_ISBLK(meta.st_mode));
}

static int is_large(long number, ucontext_t *context)
{
    switch (number) {
    case SYS_readv:
    case SYS_writev:
    case SYS_preadv:
    case SYS_pwritev:
    case SYS_preadv2:
    case SYS_pwritev2: {
        const struct iovec *parts = (const struct iovec *)argument(context, 1);
        size_t sum = 0;
        for (long i = 0; i < argument(context, 2); i++)
            sum += parts[i].iov_len;
        return sum >= LEAST;
    }
    default:
        /* The kernel has looked. */
        return 1;
    }
}

static void on_request(int signal, siginfo_t *info, void *opaque)
{
    (void)signal;
    ucontext_t *context = opaque;
    long number = info->si_syscall;
    if (is_file((int)argument(context, 0)) && is_large(number, context))
        wait_a_request();
    RESULT(context) = delay_gate(number, argument(context, 0), argument(context, 1),
                                 argument(context, 2), argument(context, 3),
                                 argument(context, 4), argument(context, 5));
}

/* Nobody may block SIGSYS: the kernel would end the program. QEMU's threads block all signals. */
static int change_mask(int how, const sigset_t *set, sigset_t *old)
{
    sigset_t without;
    if (set) {
        without = *set;
        sigdelset(&without, SIGSYS);
        set = &without;
    }
    return (int)ask(SYS_rt_sigprocmask, how, (long)set, (long)old, 8);
}

int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    return -change_mask(how, set, old);
}

int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
    int result = change_mask(how, set, old);
    if (result == 0)
        return 0;
    errno = -result;
    return -1;
}

#define MOST_STEPS 128
static struct sock_filter steps[MOST_STEPS];
static unsigned short count;

static void step(unsigned short code, unsigned char yes, unsigned char no, uint32_t value)
{
    if (count < MOST_STEPS)
        steps[count++] = (struct sock_filter){code, yes, no, value};
}

#define LOAD(place) step(BPF_LD | BPF_W | BPF_ABS, 0, 0, (place))
#define ANSWER(value) step(BPF_RET | BPF_K, 0, 0, (value))
#define FIELD(name) offsetof(struct seccomp_data, name)

/* Calls of this number wait. */
static void all_of(int number)
{
    step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, number);
    ANSWER(SECCOMP_RET_TRAP);
}

/* Calls of this number wait whose third argument is `least` to `most`. */
static void some_of(int number, uint32_t least, uint32_t most)
{
    step(BPF_JMP | BPF_JEQ | BPF_K, 0, 5, number);
    LOAD(FIELD(args[2]));
    step(BPF_JMP | BPF_JGE | BPF_K, 0, 2, least);
    step(BPF_JMP | BPF_JGT | BPF_K, 1, 0, most);
    ANSWER(SECCOMP_RET_TRAP);
    ANSWER(SECCOMP_RET_ALLOW);
}

__attribute__((constructor)) static void begin(void)
{
    const char *delay = getenv("DELAY_US");
    if (!delay)
        return;
    long microseconds = atol(delay);
    pause_of_a_request.tv_sec = microseconds / 1000000;
    pause_of_a_request.tv_nsec = microseconds % 1000000 * 1000;

    uint64_t gate = (uint64_t)(uintptr_t)delay_gate;
    uint64_t end = (uint64_t)(uintptr_t)delay_gate_end;
    LOAD(FIELD(arch));
    step(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, ARCH);
    ANSWER(SECCOMP_RET_ALLOW);
    /* From the gate: let through. It lies within one 64-byte block. */
    LOAD(FIELD(instruction_pointer) + 4);
    step(BPF_JMP | BPF_JEQ | BPF_K, 0, 4, (uint32_t)(gate >> 32));
    LOAD(FIELD(instruction_pointer));
    step(BPF_JMP | BPF_JGE | BPF_K, 0, 2, (uint32_t)gate);
    step(BPF_JMP | BPF_JGE | BPF_K, 1, 0, (uint32_t)end);
    ANSWER(SECCOMP_RET_ALLOW);

    LOAD(FIELD(nr));
    step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_io_uring_setup);
    ANSWER(SECCOMP_RET_ERRNO | ENOSYS);
    all_of(SYS_readv);
    all_of(SYS_writev);
    all_of(SYS_preadv);
    all_of(SYS_pwritev);
    all_of(SYS_preadv2);
    all_of(SYS_pwritev2);
    some_of(SYS_read, LEAST, UINT32_MAX);
    some_of(SYS_write, LEAST, UINT32_MAX);
    some_of(SYS_pread64, LEAST, UINT32_MAX);
    some_of(SYS_pwrite64, LEAST, UINT32_MAX);
    if (getenv("DELAY_SEEKS")) {
        some_of(SYS_lseek, SEEK_DATA, SEEK_HOLE);
        all_of(SYS_fallocate);
        all_of(SYS_copy_file_range);
    }
    ANSWER(SECCOMP_RET_ALLOW);

    struct sigaction action = {.sa_sigaction = on_request, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sock_fprog program = {count, steps};
    if (count == MOST_STEPS || sigaction(SIGSYS, &action, NULL) != 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) {
        perror("delaying");
        _exit(99);
    }
}
