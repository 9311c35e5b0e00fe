/* The smallest programs that do what a row of the table does: what no implementation can beat.
 *
 * Compiled statically by the benchmark itself, so that the floor pays for no runtime and no dynamic linker. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (64 * 1024)

static void check(int failed, const char *what)
{
    if (failed) {
        perror(what);
        exit(125);
    }
}

static int unix_socket(const char *path, struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(fd < 0, "socket");
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    strncpy(address->sun_path, path, sizeof address->sun_path - 1);
    return fd;
}

/* serve SOCKET: executes the program that a client names, and answers with one byte, its status. */
static _Noreturn int serve(const char *path)
{
    struct sockaddr_un address;
    int listener = unix_socket(path, &address);
    check(bind(listener, (struct sockaddr *)&address, sizeof address) < 0, "bind");
    check(listen(listener, 16) < 0, "listen");
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        check(client < 0, "accept");
        char name[256];
        ssize_t length = read(client, name, sizeof name - 1);
        if (length <= 0) {
            close(client);
            continue;
        }
        name[length] = 0;
        char *argv[] = {name, NULL};
        pid_t child = vfork();
        if (child == 0) {
            execvp(name, argv);
            _exit(127);
        }
        int status;
        check(waitpid(child, &status, 0) < 0, "waitpid");
        unsigned char code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        check(write(client, &code, 1) != 1, "write");
        close(client);
    }
}

/* call SOCKET PROGRAM: the client of it. */
static int call(const char *path, const char *program)
{
    struct sockaddr_un address;
    int fd = unix_socket(path, &address);
    check(connect(fd, (struct sockaddr *)&address, sizeof address) < 0, "connect");
    check(write(fd, program, strlen(program)) < 0, "write");
    unsigned char code;
    check(read(fd, &code, 1) != 1, "read");
    return code;
}

/* pour BYTES: as many bytes to standard output as fast as they are taken. */
static int pour(long long bytes)
{
    static char chunk[CHUNK];
    memset(chunk, 'x', sizeof chunk);
    while (bytes > 0) {
        ssize_t written = write(1, chunk, bytes < CHUNK ? (size_t)bytes : CHUNK);
        check(written < 0, "write");
        bytes -= written;
    }
    return 0;
}

/* relay: standard input to standard output through one buffer. */
static int relay(void)
{
    static char chunk[CHUNK];
    ssize_t got;
    while ((got = read(0, chunk, sizeof chunk)) > 0)
        for (ssize_t done = 0; done < got;) {
            ssize_t written = write(1, chunk + done, got - done);
            check(written < 0, "write");
            done += written;
        }
    return 0;
}

static void raw(void)
{
    struct termios mode;
    if (tcgetattr(0, &mode) == 0) {
        cfmakeraw(&mode);
        tcsetattr(0, TCSANOW, &mode);
    }
}

/* echo: what an editor does with a key. */
static int echo(void)
{
    raw();
    char bytes[256];
    ssize_t got;
    while ((got = read(0, bytes, sizeof bytes)) > 0)
        check(write(1, bytes, got) != got, "write");
    return 0;
}

/* hello FIFO: says that it runs, and stays. */
static _Noreturn int hello(const char *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    check(fd < 0, path);
    check(write(fd, "r", 1) != 1, "write");
    close(fd);
    for (;;)
        pause();
}

/* As the first process of a machine: says that it is there, over the second serial port, and stays. */
static _Noreturn int first(void)
{
    mkdir("/dev", 0755);
    check(mknod("/dev/ttyS1", S_IFCHR | 0600, makedev(4, 65)) < 0, "mknod");
    hello("/dev/ttyS1");
}

static void nothing(int signal)
{
    (void)signal;
}

/* paint: a full screen, drawn again whenever the size changes, as every full-screen program does. */
static _Noreturn int paint(void)
{
    struct sigaction action = {.sa_handler = nothing};
    sigset_t blocked, before;
    raw();
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGWINCH);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    sigaction(SIGWINCH, &action, NULL);
    for (;;) {
        char screen[8192];
        int length = sprintf(screen, "\033[2J\033[H");
        for (int row = 1; row <= 23; row++) {
            length += sprintf(screen + length, "\033[%d;1H\033[3%dm%02d", row, row % 8, row);
            for (int column = 0; column < 70; column++)
                screen[length++] = 'a' + (row + column) % 26;
        }
        length += sprintf(screen + length, "\033[0m\033[24;1H@@PAINTED@@");
        check(write(1, screen, length) != length, "write");
        sigsuspend(&before);
    }
}

/* orphans COUNT FIFO: leaves that many double-forked processes to whoever is PID 1, says so, and stays. */
static int orphans(long count, const char *path)
{
    for (long made = 0; made < count; made++) {
        pid_t child = fork();
        check(child < 0, "fork");
        if (child == 0) {
            if (fork() == 0)
                _exit(0);
            _exit(0);
        }
        check(waitpid(child, NULL, 0) < 0, "waitpid");
    }
    return hello(path);
}

/* touch HOW FILE COUNT: the microseconds that it takes to open, look at or execute a file. */
static int touch(const char *how, char *file, long count)
{
    struct timespec began, ended;
    struct stat found;
    char *argv[] = {file, "nothing", NULL};
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (long done = 0; done < count; done++)
        if (*how == 'o') {
            int fd = open(file, O_RDONLY | O_CLOEXEC);
            check(fd < 0, file);
            close(fd);
        } else if (*how == 's') {
            check(stat(file, &found) < 0, file);
        } else {
            pid_t child = vfork();
            if (child == 0) {
                execv(file, argv);
                _exit(127);
            }
            int status;
            check(waitpid(child, &status, 0) < 0 || status == 127 << 8, file);
        }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double nanoseconds = (ended.tv_sec - began.tv_sec) * 1e9 + (ended.tv_nsec - began.tv_nsec);
    printf("%.4f\n", nanoseconds / 1000 / count);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    signal(SIGPIPE, SIG_DFL);
    if (getpid() == 1 && !strcmp(argv[0], "/init"))
        return first();
    if (!strcmp(what, "serve") && argc == 3)
        return serve(argv[2]);
    if (!strcmp(what, "call") && argc == 4)
        return call(argv[2], argv[3]);
    if (!strcmp(what, "pour") && argc == 3)
        return pour(atoll(argv[2]));
    if (!strcmp(what, "relay"))
        return relay();
    if (!strcmp(what, "echo"))
        return echo();
    if (!strcmp(what, "hello") && argc == 3)
        return hello(argv[2]);
    if (!strcmp(what, "paint"))
        return paint();
    if (!strcmp(what, "orphans") && argc == 4)
        return orphans(atol(argv[2]), argv[3]);
    if (!strcmp(what, "touch") && argc == 5)
        return touch(argv[2], argv[3], atol(argv[4]));
    if (!strcmp(what, "nothing"))
        return 0;
    fprintf(stderr, "serve, call, pour, relay, echo, hello, paint, orphans, touch or nothing?\n");
    return 64;
}
