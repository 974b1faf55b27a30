/* What the client needs of a board: the whole port. mps2.c is the one for QEMU's machine `mps2-an500`. */
#ifndef EXAMPLE_BOARD_H
#define EXAMPLE_BOARD_H

#include <stddef.h>
#include <stdint.h>

/* The memory for the library, and the stack; from the linker script. */
extern uint8_t arena_start[], arena_end[], stack_start[], stack_end[], static_start[], static_end[];

/* The connection to the server, in the manner of safenet_read and safenet_write: wait for at least one byte, and return how many
 * were moved. */
ptrdiff_t board_read(void *context, uint8_t *buffer, size_t size);
ptrdiff_t board_write(void *context, const uint8_t *buffer, size_t size);

/* Randomness, in the manner of safenet_random: 0, or another value if it failed. */
int board_random(void *context, uint8_t *out, size_t size);

/* Instructions executed since the start; on hardware, cycles. */
uint64_t board_instructions(void);

/* Prints a text where a developer sees it. */
void board_print(const char *text);

/* Ends the program: 0 if all went well. */
void board_exit(int status) __attribute__((noreturn));

/* What a device has in its flash and from its sensor comes from files here, and its answers go to one.
 * The words with which the program was started, one after another; NULL after the last. */
const char *board_argument(void);
/* Reads a whole file; its size, or -1 if it cannot be read or is larger than `size`. */
ptrdiff_t board_load(const char *path, uint8_t *buffer, size_t size);
/* Opens the file for answers, which board_answer adds to; 0, or -1 if that fails. */
int board_answers(const char *path);
int board_answer(const char *text);

#endif
