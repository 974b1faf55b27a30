#define _POSIX_C_SOURCE 200809L

#include "common.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

extern const char *const program_name;

void complain(const char *format, ...)
{
    /* One call, so that lines of several threads do not mix. */
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s: %s\n", program_name, line);
}

uint8_t *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        complain("%s: expected a readable file, got: %s", path, strerror(errno));
        return NULL;
    }
    uint8_t *contents = NULL;
    size_t capacity = 0;
    *size = 0;
    for (;;) {
        if (*size == capacity) {
            capacity = capacity ? 2 * capacity : 1 << 16;
            uint8_t *larger = realloc(contents, capacity);
            if (!larger) {
                complain("%s: expected a file that fits memory, got one of more than %zu bytes", path, *size);
                break;
            }
            contents = larger;
        }
        size_t count = fread(contents + *size, 1, capacity - *size, file);
        *size += count;
        if (count == 0) {
            if (!ferror(file)) {
                fclose(file);
                return contents;
            }
            complain("%s: expected to read it, got after %zu bytes: %s", path, *size, strerror(errno));
            break;
        }
    }
    free(contents);
    fclose(file);
    return NULL;
}

int parse_number(const char *what, const char *text, long least, long most, long *value)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (errno || end == text || *end || number < least || number > most) {
        complain("%s: expected a number from %ld to %ld, got '%s'", what, least, most, text);
        return -1;
    }
    *value = number;
    return 0;
}

const char *option_argument(int argc, char **argv, int *i)
{
    if (*i + 1 >= argc) {
        complain("%s: expected an argument after it, got none (try --help)", argv[*i]);
        return NULL;
    }
    return argv[++*i];
}

/* Tries each address that a name stands for with `attempt`, which returns 0 on success, and measures how long that took. */
static int first_socket(const char *host, const char *port, int flags, int (*attempt)(int, const struct addrinfo *),
                        const char *what, double *ms)
{
    struct addrinfo hints, *all;
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags;
    int code = getaddrinfo(host, port, &hints, &all);
    if (code) {
        complain("%s %s port %s: expected an address, got: %s", what, host, port, gai_strerror(code));
        return -1;
    }
    int found = -1;
    int reason = 0;
    for (const struct addrinfo *one = all; one && found < 0; one = one->ai_next) {
        int fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
        double start = now_ms();
        if (fd < 0) {
            reason = errno;
        } else if (attempt(fd, one) == 0) {
            found = fd;
            *ms = now_ms() - start;
        } else {
            reason = errno;
            close(fd);
        }
    }
    freeaddrinfo(all);
    if (found < 0) {
        complain("%s %s port %s: expected it to succeed, got: %s", what, host, port, strerror(reason));
    }
    return found;
}

static int attempt_listen(int fd, const struct addrinfo *address)
{
    int one = 1;
    /* A restarted server may take its port again at once. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    return bind(fd, address->ai_addr, address->ai_addrlen) || listen(fd, 64);
}

static int attempt_connect(int fd, const struct addrinfo *address)
{
    return connect(fd, address->ai_addr, address->ai_addrlen);
}

int listen_on(const char *address, const char *port)
{
    double ms;
    return first_socket(address, port, AI_PASSIVE | AI_NUMERICSERV, attempt_listen, "listening on", &ms);
}

int connect_to(const char *target, double *round_trip_ms)
{
    const char *colon = strrchr(target, ':');
    size_t length = colon ? (size_t)(colon - target) : 0;
    if (length == 0 || !colon[1]) {
        complain("server: expected HOST:PORT, got '%s'", target);
        return -1;
    }
    if (length > 2 && target[0] == '[' && target[length - 1] == ']') {
        target += 1;
        length -= 2;
    }
    char host[256];
    if (length >= sizeof host) {
        complain("server: expected a host name of at most %zu bytes, got %zu", sizeof host - 1, length);
        return -1;
    }
    memcpy(host, target, length);
    host[length] = '\0';
    int fd = first_socket(host, colon + 1, 0, attempt_connect, "connecting to", round_trip_ms);
    if (fd >= 0) {
        send_at_once(fd);
    }
    return fd;
}

void send_at_once(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

void format_address(int fd, int other_end, char *text, size_t size)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    char host[256], port[16];
    struct sockaddr *generic = (struct sockaddr *)&address;
    if ((other_end ? getpeername : getsockname)(fd, generic, &length) ||
        getnameinfo(generic, length, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV)) {
        snprintf(text, size, "unknown address");
        return;
    }
    snprintf(text, size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/* So many long waits in a row, as over a distant link or for an idle client, and the next ones are taken to be long too. */
#define LONG_WAITS 4
/* Waits that do not poll after one in which someone else had use for the processor. */
#define REST 64
/* A yield that takes more milliseconds has let someone else run. */
#define YIELDED_MS 0.04

/* recv(), but awake at first. Whoever is ready to run does so between two looks; if someone did, or waits are long, the next
 * ones do not poll. */
static ssize_t receive(struct connection *connection, uint8_t *buffer, size_t size)
{
    double start = now_ms(), last = start, now, limit = (double)connection->poll_us / 1e3;
    int polls = limit > 0 && !connection->rest && connection->long_waits < LONG_WAITS;
    int done = 0;
    ssize_t count = -1;
    while (polls) {
        count = recv(connection->fd, buffer, size, MSG_DONTWAIT);
        done = count >= 0 || errno != EAGAIN;
        if (done) {
            break;
        }
        sched_yield();
        now = now_ms();
        if (now - last > YIELDED_MS) {
            connection->rest = REST;
        }
        polls = now - start <= limit && !connection->rest;
        last = now;
    }
    if (!done) {
        count = recv(connection->fd, buffer, size, 0);
    }
    int code = errno;
    connection->rest -= connection->rest > 0;
    connection->long_waits = now_ms() - start > limit ? connection->long_waits + 1 : 0;
    errno = code;
    return count;
}

ptrdiff_t read_socket(void *context, uint8_t *buffer, size_t size)
{
    struct connection *connection = context;
    ssize_t count;
    do {
        count = receive(connection, buffer, size);
    } while (count < 0 && errno == EINTR);
    connection->error_number = count < 0 ? errno : 0;
    return count;
}

ptrdiff_t write_socket(void *context, const uint8_t *buffer, size_t size)
{
    struct connection *connection = context;
    ssize_t count;
    do {
        /* Without a signal: a peer that is gone is an error of this call, not the end of the program. */
        count = send(connection->fd, buffer, size, MSG_NOSIGNAL);
    } while (count < 0 && errno == EINTR);
    connection->error_number = count < 0 ? errno : 0;
    return count;
}

const char *connection_error(const struct connection *connection)
{
    switch (connection->error_number) {
    case 0:
        return "";
    case EAGAIN:
        return ": the other side was silent for too long";
    case ECONNRESET:
    case EPIPE:
        return ": the other side is gone";
    default:
        return ": the system reports an error of the connection";
    }
}

double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}
