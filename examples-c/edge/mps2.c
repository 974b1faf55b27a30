/* QEMU's machine `mps2-an500`, a Cortex-M7 with 4 MiB for code and 4 MiB of memory: start-up, a serial line for
 * messages, a clock. What a
 * device would have in flash or from a sensor comes through semihosting, the way by which a debugger serves files. */
#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))

/* Armv7-M: access to the floating-point unit, and the system timer. */
#define CPACR REGISTER(0xE000ED88)
#define SYSTICK_CONTROL REGISTER(0xE000E010)
#define SYSTICK_RELOAD REGISTER(0xE000E014)
#define SYSTICK_VALUE REGISTER(0xE000E018)

/* The first serial line (Arm's CMSDK). */
#define UART_DATA REGISTER(0x40004000)
#define UART_STATE REGISTER(0x40004004)
#define UART_CONTROL REGISTER(0x40004008)
#define UART_DIVIDER REGISTER(0x40004010)
#define UART_TRANSMIT_FULL 1u

/* The timer counts at 25 MHz. With QEMU's option `-icount shift=0` an instruction takes 1 ns. */
#define INSTRUCTIONS_PER_TICK 40u
#define TICKS (1u << 24)

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[];
int main(void);

static int open_connection(void);

static volatile uint32_t systick_rounds;

/* ---- Start-up ---- */

static void fault(void)
{
    board_print("edge: fault of the processor (an access outside memory: the stack may be too small)\n");
    board_exit(1);
}

static void systick(void)
{
    systick_rounds += 1;
}

__attribute__((noreturn)) static void reset(void)
{
    CPACR |= 0xFu << 20;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    for (uint32_t *to = data_start, *from = data_load; to < data_end;) {
        *to++ = *from++;
    }
    for (uint32_t *to = bss_start; to < bss_end;) {
        *to++ = 0;
    }
    UART_DIVIDER = 16;
    UART_CONTROL = 1; /* it sends only */
    SYSTICK_RELOAD = TICKS - 1;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 7;
    board_exit(open_connection() ? 1 : main());
}

static const struct {
    uint8_t *stack;
    void (*reset)(void);
    void (*exceptions[14])(void);
} vectors __attribute__((section(".vectors"), used)) = {
    stack_end,
    reset,
    /* NMI; hard, memory, bus and usage fault; four reserved; SVCall, debug monitor, one reserved, PendSV; SysTick */
    {fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, systick},
};

/* ---- Semihosting: https://github.com/ARM-software/abi-aa/blob/main/semihosting ---- */

#define SYS_OPEN 0x01
#define SYS_CLOSE 0x02
#define SYS_WRITE 0x05
#define SYS_READ 0x06
#define SYS_FLEN 0x0C
#define SYS_GET_CMDLINE 0x15
#define SYS_EXIT_EXTENDED 0x20
#define ADP_STOPPED_APPLICATION_EXIT 0x20026
#define OPEN_READ 1 /* "rb" */
#define OPEN_WRITE 5 /* "wb" */

static intptr_t host(uint32_t operation, const void *argument)
{
    register intptr_t r0 __asm__("r0") = (intptr_t)operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static size_t length(const char *text)
{
    size_t count = 0;
    while (text[count]) {
        count++;
    }
    return count;
}

static intptr_t host_open(const char *path, uint32_t mode)
{
    const uintptr_t block[] = {(uintptr_t)path, mode, length(path)};
    return host(SYS_OPEN, block);
}

static void host_close(intptr_t file)
{
    const uintptr_t block[] = {(uintptr_t)file};
    host(SYS_CLOSE, block);
}

/* Reads exactly `size` bytes: 0, or -1. */
static int host_read(intptr_t file, uint8_t *buffer, size_t size)
{
    while (size) {
        const uintptr_t block[] = {(uintptr_t)file, (uintptr_t)buffer, size};
        /* The answer is how many bytes are missing. */
        intptr_t missing = host(SYS_READ, block);
        if (missing < 0 || (size_t)missing >= size) {
            return -1;
        }
        buffer += size - (size_t)missing;
        size = (size_t)missing;
    }
    return 0;
}

void board_print(const char *text)
{
    for (; *text; text++) {
        while (UART_STATE & UART_TRANSMIT_FULL) {
        }
        UART_DATA = (uint8_t)*text;
    }
}

void board_exit(int status)
{
    const uintptr_t block[] = {ADP_STOPPED_APPLICATION_EXIT, (uintptr_t)status};
    host(SYS_EXIT_EXTENDED, block);
    for (;;) {
    }
}

const char *board_argument(void)
{
    static char line[4096], *next;
    if (!next) {
        const uintptr_t block[] = {(uintptr_t)line, sizeof line};
        if (host(SYS_GET_CMDLINE, block)) {
            return NULL;
        }
        next = line;
    }
    while (*next == ' ') {
        next++;
    }
    const char *word = next;
    while (*next && *next != ' ') {
        next++;
    }
    if (*next) {
        *next++ = '\0';
    }
    return *word ? word : NULL;
}

ptrdiff_t board_load(const char *path, uint8_t *buffer, size_t size)
{
    intptr_t file = host_open(path, OPEN_READ);
    if (file < 0) {
        return -1;
    }
    const uintptr_t block[] = {(uintptr_t)file};
    ptrdiff_t bytes = host(SYS_FLEN, block);
    if (bytes < 0 || (size_t)bytes > size || host_read(file, buffer, (size_t)bytes)) {
        bytes = -1;
    }
    host_close(file);
    return bytes;
}

static intptr_t answers = -1;

int board_answers(const char *path)
{
    answers = host_open(path, OPEN_WRITE);
    return answers < 0 ? -1 : 0;
}

int board_answer(const char *text)
{
    const uintptr_t block[] = {(uintptr_t)answers, (uintptr_t)text, length(text)};
    return host(SYS_WRITE, block) ? -1 : 0;
}

/* For the demonstration alone: the host's generator. A device takes its own, which hardware feeds. */
int board_random(void *context, uint8_t *out, size_t size)
{
    (void)context;
    intptr_t file = host_open("/dev/urandom", OPEN_READ);
    if (file < 0) {
        return -1;
    }
    int result = host_read(file, out, size);
    host_close(file);
    return result;
}

/* ---- The connection: semihosting's console, which is QEMU's own input and output; whoever starts it makes these a socket ---- */

static intptr_t from_server = -1, to_server = -1;

static int open_connection(void)
{
    from_server = host_open(":tt", OPEN_READ);
    to_server = host_open(":tt", OPEN_WRITE);
    return from_server < 0 || to_server < 0 ? -1 : 0;
}

ptrdiff_t board_read(void *context, uint8_t *buffer, size_t size)
{
    (void)context;
    const uintptr_t block[] = {(uintptr_t)from_server, (uintptr_t)buffer, size};
    /* The answer is how many bytes are missing; the host waits until there is one, or the connection has ended. */
    intptr_t missing = host(SYS_READ, block);
    return missing < 0 || (size_t)missing > size ? -1 : (ptrdiff_t)(size - (size_t)missing);
}

ptrdiff_t board_write(void *context, const uint8_t *buffer, size_t size)
{
    (void)context;
    const uintptr_t block[] = {(uintptr_t)to_server, (uintptr_t)buffer, size};
    intptr_t missing = host(SYS_WRITE, block);
    return missing < 0 || (size_t)missing > size ? -1 : (ptrdiff_t)(size - (size_t)missing);
}

/* ---- The clock ---- */

uint64_t board_instructions(void)
{
    uint32_t rounds, value;
    do {
        rounds = systick_rounds;
        value = SYSTICK_VALUE;
    } while (rounds != systick_rounds);
    return ((uint64_t)rounds * TICKS + (TICKS - 1 - value)) * INSTRUCTIONS_PER_TICK;
}
