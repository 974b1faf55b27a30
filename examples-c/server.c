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
    "  --timeout S     seconds after which a silent client is let go; 0 means never (600)\n"
    "  --help          this text\n";

/* Everything the sessions share. */
static struct {
    safenet_server_model *model;
    safenet_options options;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    struct session *first;
    long active;
} server = {.lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};

/* One client's connection; sessions that run form a list, so that they can be told to stop. */
struct session {
    int fd;
    int failed;
    struct session *previous, *next;
};

/* Written to by signal handlers, read by the loop that accepts clients. */
static int stop_pipe[2];

static void on_signal(int number)
{
    (void)number;
    int saved = errno;
    if (write(stop_pipe[1], "", 1) < 0) {
        /* The pipe is full: the loop has been told. */
    }
    errno = saved;
}

/* Closes a connection so that the client still gets what was sent last, such as the text of an error. */
static void hang_up(int fd)
{
    /* Unread bytes at close would make the system drop what is under way; so read on for a while. */
    struct timeval patience = {.tv_sec = 2, .tv_usec = 0};
    char rest[4096];
    shutdown(fd, SHUT_WR);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (int i = 0; i < 4096 && recv(fd, rest, sizeof rest, 0) > 0; i++) {
    }
}

static void serve(struct session *session)
{
    char address[320], error[512] = "";
    double start = now_ms();
    safenet_server *handle = NULL;
    safenet_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.size = sizeof stats;
    format_address(session->fd, 1, address, sizeof address);

    safenet_status status = safenet_server_new(server.model, &server.options, &handle, error, sizeof error);
    if (status == SAFENET_OK) {
        status = safenet_server_run(handle, read_socket, write_socket, &session->fd);
        if (status != SAFENET_OK) {
            snprintf(error, sizeof error, "%s", safenet_server_error(handle));
        }
        safenet_server_stats(handle, &stats);
        safenet_server_free(handle);
    }
    uint64_t received = stats.setup.received + stats.prepare.received + stats.infer.received;
    uint64_t sent = stats.setup.sent + stats.prepare.sent + stats.infer.sent;
    session->failed = status != SAFENET_OK;
    printf("%s: %llu inferences, %llu bytes received, %llu bytes sent, %.1f s%s%s%s%s\n", address,
           (unsigned long long)stats.inferences, (unsigned long long)received, (unsigned long long)sent,
           (now_ms() - start) / 1e3, session->failed ? ", error: " : "",
           session->failed ? safenet_status_text(status) : "", session->failed ? ": " : "", error);
    hang_up(session->fd);
}

static void *session_thread(void *argument)
{
    struct session *session = argument;
    serve(session);
    pthread_mutex_lock(&server.lock);
    if (session->previous) {
        session->previous->next = session->next;
    } else {
        server.first = session->next;
    }
    if (session->next) {
        session->next->previous = session->previous;
    }
    /* Closed under the lock: whoever stops the server must not shut down a descriptor that serves another purpose by now. */
    close(session->fd);
    server.active--;
    pthread_cond_signal(&server.ended);
    pthread_mutex_unlock(&server.lock);
    free(session);
    return NULL;
}

/* Starts a thread for a client; on failure the client is let go and the server goes on. */
static void start_session(int fd)
{
    pthread_t thread;
    pthread_attr_t attributes;
    struct session *session = calloc(1, sizeof *session);
    if (!session) {
        complain("memory for a session: expected some, got none; the client is let go");
        close(fd);
        return;
    }
    session->fd = fd;
    pthread_mutex_lock(&server.lock);
    session->next = server.first;
    if (server.first) {
        server.first->previous = session;
    }
    server.first = session;
    server.active++;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int code = pthread_create(&thread, &attributes, session_thread, session);
    pthread_attr_destroy(&attributes);
    if (code) {
        complain("thread for a session: expected one, got: %s; the client is let go", strerror(code));
        server.first = session->next;
        if (server.first) {
            server.first->previous = NULL;
        }
        server.active--;
        free(session);
        close(fd);
    }
    pthread_mutex_unlock(&server.lock);
}

static void wait_for_fewer_than(long sessions)
{
    pthread_mutex_lock(&server.lock);
    while (server.active >= sessions) {
        pthread_cond_wait(&server.ended, &server.lock);
    }
    pthread_mutex_unlock(&server.lock);
}

static void stop_sessions(void)
{
    pthread_mutex_lock(&server.lock);
    for (struct session *session = server.first; session; session = session->next) {
        shutdown(session->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&server.lock);
    wait_for_fewer_than(1);
}

/* Whether an error of accept() concerns one client or a moment, and not the listening socket. */
static int passing(int code)
{
    return code == ECONNABORTED || code == EINTR || code == EMFILE || code == ENFILE || code == ENOBUFS ||
           code == ENOMEM || code == EAGAIN || code == EPROTO;
}

/* Accepts clients until a signal comes, or the first session ends with --once. Returns the program's exit status. */
static int accept_clients(int listener, int once, long sessions, long timeout)
{
    struct pollfd watched[2] = {{.fd = listener, .events = POLLIN}, {.fd = stop_pipe[0], .events = POLLIN}};
    for (;;) {
        if (poll(watched, 2, -1) < 0 && errno != EINTR) {
            complain("waiting for clients: expected one, got: %s", strerror(errno));
            return 1;
        }
        if (watched[1].revents) {
            stop_sessions();
            return 0;
        }
        if (!(watched[0].revents & POLLIN)) {
            continue;
        }
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            if (!passing(errno)) {
                complain("accepting a client: expected a connection, got: %s", strerror(errno));
                return 1;
            }
            /* Short of descriptors or memory: sessions that end will give some back. */
            poll(&watched[1], 1, 100);
            continue;
        }
        struct timeval patience = {.tv_sec = timeout, .tv_usec = 0};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        send_at_once(fd);
        if (once) {
            struct session session = {.fd = fd};
            serve(&session);
            close(fd);
            return session.failed;
        }
        start_session(fd);
        wait_for_fewer_than(sessions);
    }
}

int main(int argc, char **argv)
{
    const char *path = NULL, *port = NULL, *address = "127.0.0.1";
    long sessions = 64, prepared = 64, timeout = 600, number;
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
        } else if (!strcmp(value, "--timeout")) {
            if (!(value = option_argument(argc, argv, &i)) || parse_number("--timeout", value, 0, 1000000, &timeout)) {
                return 2;
            }
        } else if (value[0] == '-') {
            complain("expected MODEL, --port, --bind, --once, --sessions, --prepared, --timeout or --help, got '%s'", value);
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
    safenet_status status = safenet_server_model_load(contents, size, &server.model, error, sizeof error);
    free(contents);
    if (status != SAFENET_OK) {
        complain("%s: %s", path, error);
        return 1;
    }
    server.options.size = sizeof server.options;
    server.options.max_bundles = (uint32_t)prepared;

    int result = 1;
    int listener = listen_on(address, port);
    if (listener >= 0 && pipe(stop_pipe) == 0) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = on_signal;
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        /* Lines appear as they are printed, into files and pipes too. */
        setvbuf(stdout, NULL, _IOLBF, 0);
        char text[320];
        format_address(listener, 0, text, sizeof text);
        printf("listening on %s\n", text);
        result = accept_clients(listener, once, sessions, timeout);
        wait_for_fewer_than(1);
        close(stop_pipe[0]);
        close(stop_pipe[1]);
    }
    if (listener >= 0) {
        close(listener);
    }
    safenet_server_model_free(server.model);
    return result;
}
