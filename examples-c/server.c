/* Serves a network to clients that keep their inputs to themselves. */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <safenet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common.h"

const char *const program_name = "server";

static const char usage[] =
    "usage: server MODEL --port P [options]\n"
    "\n"
    "Serves the network in the file MODEL (a server's model file, with its weights) to any number of clients at a time.\n"
    "Clients learn the network's outputs for their inputs; the server learns nothing about either. For each session it\n"
    "prints a line: the client's address, inferences, bytes, time, and the error if there was one.\n"
    "\n"
    "  --port P        TCP port to listen on; 0 lets the system choose one, which is then printed\n"
    "  --bind ADDR     address to listen on (127.0.0.1)\n"
    "  --once          exit after the first session, with status 1 if it failed\n"
    "  --sessions N    most sessions at a time; more wait (64)\n"
    "  --prepared N    most unused prepared inferences that one session may hold (64)\n"
    "  --threads N     threads that compute for all sessions, beside one for each session (1: these alone)\n"
    "  --timeout S     seconds without a byte after which a client is let go; 0 means never (600)\n"
    "  --poll US       wait for a client awake for up to US microseconds, where processors are idle and clients quick\n"
    "                  (500); 0: never\n"
    "  --help          this text\n";

/* One client's connection and the thread that serves it. The list of them is the main thread's alone. */
struct session {
    struct connection connection;
    pthread_t thread;
    struct session *next;
    int done; /* under the lock */
    int failed;
};

/* What the sessions share. */
static safenet_server_model *model;
static safenet_options options;
static long poll_us = POLL_US;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Wakes the main thread: 's' from a signal handler that wants it to stop, 'e' from a session that has ended. */
static int wake_pipe[2];

static void wake(char why)
{
    int saved = errno;
    ssize_t count;
    do {
        count = write(wake_pipe[1], &why, 1);
    } while (count < 0 && errno == EINTR);
    errno = saved;
}

static void on_signal(int number)
{
    (void)number;
    wake('s');
}

/* Closes a connection so that the client still gets what was sent last, such as the text of an error. */
static void hang_up(int fd)
{
    /* Unread bytes at close would make the system drop what is under way; so read on for a moment, and no longer. */
    struct timeval patience = {.tv_sec = 1, .tv_usec = 0};
    char rest[4096];
    double start = now_ms();
    shutdown(fd, SHUT_WR);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    while (now_ms() - start < 2000 && recv(fd, rest, sizeof rest, 0) > 0) {
    }
}

static void serve(struct session *session)
{
    char address[320], error[512] = "";
    double start = now_ms();
    safenet_server *server = NULL;
    safenet_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.size = sizeof stats;
    format_address(session->connection.fd, 1, address, sizeof address);

    safenet_status status = safenet_server_new(model, &options, &server, error, sizeof error);
    if (status == SAFENET_OK) {
        status = safenet_server_run(server, read_socket, write_socket, &session->connection);
        if (status != SAFENET_OK) {
            snprintf(error, sizeof error, "%s%s", safenet_server_error(server), connection_error(&session->connection));
        }
        safenet_server_stats(server, &stats);
        safenet_server_free(server);
    }
    uint64_t received = stats.setup.received + stats.prepare.received + stats.infer.received;
    uint64_t sent = stats.setup.sent + stats.prepare.sent + stats.infer.sent;
    session->failed = status != SAFENET_OK;
    printf("%s: %llu inferences, %llu bytes received, %llu bytes sent, %.1f s%s%s%s%s\n", address,
           (unsigned long long)stats.inferences, (unsigned long long)received, (unsigned long long)sent,
           (now_ms() - start) / 1e3, session->failed ? ", error: " : "",
           session->failed ? safenet_status_text(status) : "", session->failed ? ": " : "", error);
    hang_up(session->connection.fd);
}

static void *session_thread(void *argument)
{
    struct session *session = argument;
    serve(session);
    pthread_mutex_lock(&lock);
    session->done = 1;
    pthread_mutex_unlock(&lock);
    wake('e');
    return NULL;
}

/* A session for a connection, in a thread of its own; NULL, after a complaint, if that fails: the client is let go. */
static struct session *start_session(int fd)
{
    struct session *session = calloc(1, sizeof *session);
    int code = ENOMEM;
    if (session) {
        session->connection.fd = fd;
        session->connection.poll_us = poll_us;
        code = pthread_create(&session->thread, NULL, session_thread, session);
    }
    if (code) {
        complain("session: expected memory and a thread for it, got: %s; the client is let go", strerror(code));
        free(session);
        close(fd);
        return NULL;
    }
    return session;
}

/* Takes the sessions that have ended off the list, and waits for the others too if told to. Counts those that failed. */
static void collect(struct session **list, int all, long *active, long *failed)
{
    while (*list) {
        struct session *session = *list;
        pthread_mutex_lock(&lock);
        int done = session->done;
        pthread_mutex_unlock(&lock);
        if (!done && !all) {
            list = &session->next;
            continue;
        }
        pthread_join(session->thread, NULL);
        *list = session->next;
        *active -= 1;
        *failed += session->failed;
        close(session->connection.fd);
        free(session);
    }
}

/* Whether an error of accept() concerns one client or a moment, and not the listening socket. */
static int passing(int code)
{
    return code == ECONNABORTED || code == EINTR || code == EMFILE || code == ENFILE || code == ENOBUFS ||
           code == ENOMEM || code == EAGAIN || code == EPROTO;
}

/* Accepts clients until a signal comes, or the first session has ended with --once. Returns the program's exit status. */
static int accept_clients(int listener, int once, long most, long timeout)
{
    struct session *list = NULL;
    long active = 0, failed = 0, accepted = 0;
    int result = 0;
    while (!(once && accepted && !active)) {
        int full = active >= most || (once && accepted);
        struct pollfd watched[2] = {{.fd = wake_pipe[0], .events = POLLIN},
                                    {.fd = full ? -1 : listener, .events = POLLIN}};
        if (poll(watched, 2, -1) < 0) {
            if (errno == EINTR) {
                continue;
            }
            complain("waiting for clients: expected one, got: %s", strerror(errno));
            result = 1;
            break;
        }
        if (watched[0].revents) {
            char reasons[64];
            ssize_t count = read(wake_pipe[0], reasons, sizeof reasons);
            if (count > 0 && memchr(reasons, 's', (size_t)count)) {
                break;
            }
            collect(&list, 0, &active, &failed);
        }
        if (watched[1].revents & POLLIN) {
            int fd = accept(listener, NULL, NULL);
            if (fd < 0 && !passing(errno)) {
                complain("accepting a client: expected a connection, got: %s", strerror(errno));
                result = 1;
                break;
            }
            if (fd < 0) {
                /* Short of descriptors or memory: sessions that end will give some back. */
                poll(watched, 1, 100);
                continue;
            }
            struct timeval patience = {.tv_sec = timeout, .tv_usec = 0};
            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
            send_at_once(fd);
            struct session *session = start_session(fd);
            if (session) {
                session->next = list;
                list = session;
                active++;
                accepted++;
            }
        }
    }
    /* A session that waits for its client now finds the connection ended. */
    for (struct session *session = list; session; session = session->next) {
        shutdown(session->connection.fd, SHUT_RDWR);
    }
    collect(&list, 1, &active, &failed);
    return result || (once && failed);
}

int main(int argc, char **argv)
{
    const char *path = NULL, *port = NULL, *address = "127.0.0.1";
    long sessions = 64, prepared = 64, threads = 1, timeout = 600, number;
    int once = 0;
    for (int i = 1; i < argc; i++) {
        const char *value = argv[i];
        if (!strcmp(value, "--help")) {
            fputs(usage, stdout);
            return 0;
        } else if (!strcmp(value, "--once")) {
            once = 1;
        } else if (!strcmp(value, "--port")) {
            if (!(port = option_argument(argc, argv, &i)) || parse_number("--port", port, 0, 65535, &number)) {
                return 2;
            }
        } else if (!strcmp(value, "--bind")) {
            if (!(address = option_argument(argc, argv, &i))) {
                return 2;
            }
        } else if (!strcmp(value, "--sessions")) {
            if (!(value = option_argument(argc, argv, &i)) || parse_number("--sessions", value, 1, 100000, &sessions)) {
                return 2;
            }
        } else if (!strcmp(value, "--prepared")) {
            if (!(value = option_argument(argc, argv, &i)) || parse_number("--prepared", value, 1, 100000, &prepared)) {
                return 2;
            }
        } else if (!strcmp(value, "--threads")) {
            if (!(value = option_argument(argc, argv, &i)) || parse_number("--threads", value, 1, 100000, &threads)) {
                return 2;
            }
        } else if (!strcmp(value, "--timeout")) {
            if (!(value = option_argument(argc, argv, &i)) || parse_number("--timeout", value, 0, 1000000, &timeout)) {
                return 2;
            }
        } else if (!strcmp(value, "--poll")) {
            if (!(value = option_argument(argc, argv, &i)) || parse_number("--poll", value, 0, MOST_POLL_US, &poll_us)) {
                return 2;
            }
        } else if (value[0] == '-') {
            complain("expected MODEL, --port, --bind, --once, --sessions, --prepared, --threads, --timeout, --poll or --help, got '%s'",
                     value);
            return 2;
        } else if (path) {
            complain("expected one MODEL, got '%s' and '%s'", path, value);
            return 2;
        } else {
            path = value;
        }
    }
    if (!path || !port) {
        complain("expected %s, got none (try --help)", path ? "--port P" : "a MODEL file");
        return 2;
    }

    char error[512];
    size_t size;
    uint8_t *contents = read_file(path, &size);
    if (!contents) {
        return 1;
    }
    options.size = sizeof options;
    options.max_bundles = (uint32_t)prepared;
    options.threads = (uint32_t)threads;
    safenet_status status = safenet_server_model_load(contents, size, &options, &model, error, sizeof error);
    free(contents);
    if (status != SAFENET_OK) {
        complain("%s: %s", path, error);
        return 1;
    }

    int result = 1;
    int listener = listen_on(address, port);
    if (listener >= 0 && pipe(wake_pipe) == 0) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = on_signal;
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        /* Whoever reads the lines may go away; the server stays. */
        signal(SIGPIPE, SIG_IGN);
        /* Lines appear as they are printed, into files and pipes too. */
        setvbuf(stdout, NULL, _IOLBF, 0);
        char text[320];
        format_address(listener, 0, text, sizeof text);
        printf("listening on %s\n", text);
        result = accept_clients(listener, once, sessions, timeout);
        close(wake_pipe[0]);
        close(wake_pipe[1]);
    }
    if (listener >= 0) {
        close(listener);
    }
    safenet_server_model_free(model);
    return result;
}
