/* What the example client and server share: files, arguments, sockets and the callbacks by which SAFENet reaches them. */
#ifndef EXAMPLE_COMMON_H
#define EXAMPLE_COMMON_H

#include <stddef.h>
#include <stdint.h>

/* Prints a line to standard error, after the program's name. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Reads a whole file; NULL, after a complaint, if that fails. To be freed. */
uint8_t *read_file(const char *path, size_t *size);

/* Reads a decimal number from `least` to `most`; returns 0, or -1 after a complaint that names it `what`. */
int parse_number(const char *what, const char *text, long least, long most, long *value);

/* The argument of the option at argv[*i], stepping over it; NULL, after a complaint, if there is none. */
const char *option_argument(int argc, char **argv, int *i);

/* A listening socket for an address; "0" is a port of the system's choice. -1, after a complaint, if that fails. */
int listen_on(const char *address, const char *port);

/* A socket connected to "HOST:PORT" ("[HOST]:PORT" for an IPv6 address). -1, after a complaint, if that fails. Connecting is
 * one message and one answer: *round_trip_ms is how long these were under way. */
int connect_to(const char *target, double *round_trip_ms);

/* Sends small messages at once: the protocol waits for each, so collecting them would only add delay. */
void send_at_once(int fd);

/* Writes an address as "ADDR:PORT" for people: this end of a socket, or the other. */
void format_address(int fd, int other_end, char *text, size_t size);

/* What SAFENet's callbacks need: a connected socket, and room for why one of them failed. All but the socket may be 0. */
struct connection {
    int fd;
    int error_number;
    /* How long read_socket() may wait awake, in microseconds. Online the parties answer each other many times in a row,
     * within some hundred microseconds; to sleep and be woken takes longer than to look again. 0: it sleeps at once. */
    long poll_us;
    /* How the waits so far went. */
    unsigned long_waits;
    unsigned rest;
};

/* What poll_us is unless told otherwise, and the most that makes sense. */
#define POLL_US 500
#define MOST_POLL_US 100000

/* SAFENet's callbacks; `context` points to a struct connection. */
ptrdiff_t read_socket(void *context, uint8_t *buffer, size_t size);
ptrdiff_t write_socket(void *context, const uint8_t *buffer, size_t size);

/* Why a callback failed, for people; "" if none did. */
const char *connection_error(const struct connection *connection);

/* Milliseconds of a clock that only goes forward. */
double now_ms(void);

#endif
