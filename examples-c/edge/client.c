/* A microcontroller has a server's network look at images that the server does not get to see.
 *
 * Its arguments: PUBLIC ANSWERS MEMORY IMAGE...: the public part of the server's model, the file for the answers (one JSON object per
 * image and line, as `safenet verify` reads them), the memory that the library gets, in KiB, and 8-bit PGM images of the model's size. */
#define SAFENET_BARE_METAL
#include <safenet.h>

#include "board.h"

/* Most values of an input and of an output, and bytes of a file, that there is room for. */
#define MOST_INPUTS 1024
#define MOST_OUTPUTS 16
#define MOST_FILE 2048
#define BUFFER 1024

/* What a phase takes. */
struct cost {
    uint64_t instructions, bytes, rounds;
};

/* The phases of a session, by their numbers in C. */
#define PHASES 4

struct run {
    safenet_client_model *model;
    safenet_client *client;
    safenet_model_info info;
    uint8_t file[MOST_FILE];
    int32_t values[MOST_INPUTS], outputs[MOST_OUTPUTS];
    uint8_t from_server[BUFFER], to_server[BUFFER];
};

static struct run run;

/* ---- Text, without the C library's: numbers only ---- */

struct text {
    char bytes[1024];
    size_t length;
};

static void add(struct text *text, const char *more)
{
    while (*more && text->length < sizeof text->bytes - 1) {
        text->bytes[text->length++] = *more++;
    }
    text->bytes[text->length] = '\0';
}

static void add_number(struct text *text, uint64_t number)
{
    char digits[21], *first = digits + sizeof digits - 1;
    *first = '\0';
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    add(text, first);
}

static void add_signed(struct text *text, int32_t number)
{
    if (number < 0) {
        add(text, "-");
    }
    add_number(text, number < 0 ? 0 - (uint64_t)number : (uint64_t)number);
}

/* value / 2^bits, all its digits. */
static void add_fixed(struct text *text, int32_t value, int32_t bits)
{
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    if (value < 0) {
        add(text, "-");
    }
    if (bits <= 0) {
        add_number(text, rest << (bits < -31 ? 31 : -bits));
        return;
    }
    if (bits > 32) {
        bits = 32; /* no model has so many */
    }
    add_number(text, rest >> bits);
    add(text, ".");
    do {
        rest = (rest & ((UINT64_C(1) << bits) - 1)) * 10;
        const char digit[] = {(char)('0' + (rest >> bits)), '\0'};
        add(text, digit);
    } while (rest & ((UINT64_C(1) << bits) - 1));
}

static void add_json(struct text *text, const char *string)
{
    for (; *string; string++) {
        const char c[] = {*string, '\0'};
        /* Control characters do not come in names here. */
        add(text, *string == '"' || *string == '\\' ? "\\" : "");
        add(text, c);
    }
}

static void complain(const char *what, const char *why)
{
    board_print("edge: ");
    board_print(what);
    board_print(": ");
    board_print(why);
    board_print("\n");
}

static void stop(void *context, const char *text)
{
    (void)context;
    complain("stopped", text);
    board_exit(1);
}

/* ---- How deep the stack ever was: it is painted first ---- */

#define PAINT 0xA5A5A5A5u

static void paint_stack(void)
{
    /* Up to a little below where this function stands. */
    uintptr_t here = (uintptr_t)__builtin_frame_address(0) - 256;
    for (volatile uint32_t *p = (uint32_t *)stack_start; (uintptr_t)p < here; p++) {
        *p = PAINT;
    }
}

static size_t stack_peak(void)
{
    const volatile uint32_t *p = (const uint32_t *)stack_start;
    while (p < (const uint32_t *)stack_end && *p == PAINT) {
        p++;
    }
    return (size_t)(stack_end - (const uint8_t *)p);
}

/* ---- The session ---- */

/* Adds a phase's traffic so far. */
static void add_traffic(struct cost *cost, const safenet_traffic *traffic)
{
    cost->bytes += traffic->sent + traffic->received;
    cost->rounds += traffic->rounds;
}

/* Moves bytes until the session has done what was asked of it; counts the instructions that each phase takes, without those that move
 * bytes. */
static safenet_status drive(struct cost *costs)
{
    size_t start = 0, end = 0;
    for (;;) {
        size_t consumed, produced;
        safenet_state state;
        safenet_phase phase;
        safenet_status status = safenet_client_phase(run.client, &phase);
        if (status != SAFENET_OK) {
            return status;
        }
        uint64_t before = board_instructions();
        status = safenet_client_advance(run.client, run.from_server + start, end - start, run.to_server,
                                        sizeof run.to_server, &consumed, &produced, &state);
        costs[phase].instructions += board_instructions() - before;
        if (*(const volatile uint32_t *)stack_start != PAINT) {
            stop(NULL, "expected a stack that is deep enough, got one that ended");
        }
        if (status != SAFENET_OK) {
            return status;
        }
        start += consumed;
        for (size_t sent = 0; sent < produced;) {
            ptrdiff_t count = board_write(NULL, run.to_server + sent, produced - sent);
            if (count <= 0) {
                return SAFENET_ERROR_TRANSPORT;
            }
            sent += (size_t)count;
        }
        if (state == SAFENET_IDLE || state == SAFENET_CLOSED) {
            return start == end ? SAFENET_OK : SAFENET_ERROR_MALFORMED_MESSAGE;
        }
        if (state == SAFENET_WANTS_INPUT && start == end) {
            ptrdiff_t count = board_read(NULL, run.from_server, sizeof run.from_server);
            if (count <= 0) {
                return SAFENET_ERROR_TRANSPORT;
            }
            start = 0;
            end = (size_t)count;
        }
    }
}

static void tell(const char *what, const struct cost *cost)
{
    struct text line = {{0}, 0};
    add(&line, "phase=");
    add(&line, what);
    add(&line, " instructions=");
    add_number(&line, cost->instructions);
    add(&line, " bytes=");
    add_number(&line, cost->bytes);
    add(&line, " rounds=");
    add_number(&line, cost->rounds);
    add(&line, " arena_peak=");
    add_number(&line, safenet_arena_peak());
    add(&line, " arena_used=");
    add_number(&line, safenet_arena_used());
    add(&line, " stack_peak=");
    add_number(&line, stack_peak());
    add(&line, "\n");
    board_print(line.bytes);
}

/* Carries out the operation that was just started (`status` is what starting it returned), and measures each phase. */
static int carry_out(const char *what, safenet_status status, struct cost *costs)
{
    safenet_stats before, after;
    before.size = sizeof before;
    after.size = sizeof after;
    for (int phase = 0; phase < PHASES; phase++) {
        costs[phase] = (struct cost){0, 0, 0};
    }
    if (status == SAFENET_OK) {
        status = safenet_client_stats(run.client, &before);
    }
    if (status == SAFENET_OK) {
        status = drive(costs);
    }
    if (status == SAFENET_OK) {
        status = safenet_client_stats(run.client, &after);
    }
    if (status != SAFENET_OK) {
        complain(what, safenet_status_text(status));
        complain(what, safenet_client_error(run.client));
        return -1;
    }
    const safenet_traffic *phases[PHASES][2] = {{NULL, NULL},
                                                {&before.setup, &after.setup},
                                                {&before.prepare, &after.prepare},
                                                {&before.infer, &after.infer}};
    for (int phase = 1; phase < PHASES; phase++) {
        struct cost earlier = {0, 0, 0};
        add_traffic(&earlier, phases[phase][0]);
        add_traffic(&costs[phase], phases[phase][1]);
        costs[phase].bytes -= earlier.bytes;
        costs[phase].rounds -= earlier.rounds;
    }
    return 0;
}

/* The next number of a PGM's header, past white space; -1 if there is none. */
static long header_number(const uint8_t *bytes, size_t size, size_t *position)
{
    long number = 0;
    size_t digits = 0;
    while (*position < size && (bytes[*position] == ' ' || bytes[*position] == '\n')) {
        *position += 1;
    }
    while (*position < size && digits < 5 && bytes[*position] >= '0' && bytes[*position] <= '9') {
        number = 10 * number + (bytes[*position] - '0');
        *position += 1;
        digits++;
    }
    return digits ? number : -1;
}

/* Reads an image into run.values, in the model's fixed point: no floating-point unit is needed. */
static int read_image(const char *path)
{
    ptrdiff_t size = board_load(path, run.file, sizeof run.file);
    size_t position = 2;
    if (size < 3 || run.file[0] != 'P' || run.file[1] != '5') {
        complain(path, "expected a PGM image (P5) of some kilobyte, got none");
        return -1;
    }
    long width = header_number(run.file, (size_t)size, &position);
    long height = header_number(run.file, (size_t)size, &position);
    long most = header_number(run.file, (size_t)size, &position);
    if (run.info.input_channels != 1 || width != (long)run.info.input_width || height != (long)run.info.input_height ||
        most != 255 || (size_t)size != position + 1 + run.info.inputs) {
        complain(path, "expected an image of 8 bits and of the model's size, got another");
        return -1;
    }
    for (size_t i = 0; i < run.info.inputs; i++) {
        /* round(x / 255 * 2^bits); a half does not occur, as 255 is odd */
        uint32_t scaled = (uint32_t)run.file[position + 1 + i] << run.info.input_fraction_bits;
        run.values[i] = (int32_t)((2 * scaled + 255) / 510);
    }
    return 0;
}

static int answer(const char *path, const struct cost *prepare, const struct cost *online)
{
    size_t class = run.info.class_output ? (size_t)run.outputs[0] : 0;
    for (size_t i = 1; i < run.info.outputs && !run.info.class_output; i++) {
        if (run.outputs[i] > run.outputs[class]) {
            class = i;
        }
    }
    struct text line = {{0}, 0};
    add(&line, "{\"image\":\"");
    add_json(&line, path);
    add(&line, "\",\"class\":");
    add_number(&line, class);
    add(&line, ",\"outputs\":[");
    for (size_t i = 0; i < run.info.outputs; i++) {
        add(&line, i ? "," : "");
        add_signed(&line, run.outputs[i]);
    }
    add(&line, "],\"scores\":[");
    for (size_t i = 0; i < run.info.outputs; i++) {
        add(&line, i ? "," : "");
        add_fixed(&line, run.outputs[i], run.info.output_fraction_bits);
    }
    /* Milliseconds of the simulated clock, on which an instruction takes 1 ns. */
    add(&line, "],\"prepare_ms\":");
    add_number(&line, prepare->instructions / 1000000);
    add(&line, ",\"online_ms\":");
    add_number(&line, online->instructions / 1000000);
    add(&line, ",\"prepare_bytes\":");
    add_number(&line, prepare->bytes);
    add(&line, ",\"online_bytes\":");
    add_number(&line, online->bytes);
    add(&line, ",\"rounds_prepare\":");
    add_number(&line, prepare->rounds);
    add(&line, ",\"rounds_online\":");
    add_number(&line, online->rounds);
    add(&line, "}\n");
    if (line.length == sizeof line.bytes - 1 || board_answer(line.bytes)) {
        complain(path, "expected to write the answer, could not");
        return -1;
    }
    struct text told = {{0}, 0};
    add(&told, path);
    add(&told, ": class ");
    add_number(&told, class);
    add(&told, "\n");
    board_print(told.bytes);
    return 0;
}

static int start(const char *public_part, size_t memory)
{
    static char error[256];
    /* Between blocks of memory gaps remain: what is in use is to be a tenth less than there is. */
    safenet_options options = {.size = sizeof options, .random = board_random, .memory = memory - memory / 10};
    ptrdiff_t size = board_load(public_part, run.file, sizeof run.file);
    if (size < 0) {
        complain(public_part, "expected a model's public part, got none, or one that is too large");
        return -1;
    }
    run.info.size = sizeof run.info;
    if (safenet_arena_set(arena_start, memory, stop, NULL, error, sizeof error) ||
        safenet_client_model_load(run.file, (size_t)size, &run.model, error, sizeof error) ||
        safenet_client_model_info(run.model, &run.info, error, sizeof error) ||
        safenet_client_new(run.model, &options, &run.client, error, sizeof error)) {
        complain(public_part, error);
        return -1;
    }
    if (run.info.inputs > MOST_INPUTS || run.info.outputs > MOST_OUTPUTS || run.info.input_fraction_bits < 0 ||
        run.info.input_fraction_bits > 16) {
        complain(public_part, "expected a model of a size that there is room for, got a larger one");
        return -1;
    }
    return 0;
}

/* Bytes of a number of KiB up to what the board has; 0 if it is none. */
static size_t memory_of(const char *text)
{
    size_t kib = 0;
    for (; *text >= '0' && *text <= '9' && kib < 100000; text++) {
        kib = 10 * kib + (size_t)(*text - '0');
    }
    return *text || kib > (size_t)(arena_end - arena_start) / 1024 ? 0 : kib * 1024;
}

int main(void)
{
    struct cost costs[PHASES];
    paint_stack();
    board_argument(); /* the program's name */
    const char *public_part = board_argument(), *answers = board_argument(), *memory = board_argument(), *image;
    if (!memory || !memory_of(memory) || board_answers(answers)) {
        complain("arguments", "expected PUBLIC ANSWERS MEMORY IMAGE..., a file for answers that can be written, and "
                              "as many KiB of memory as the board has or fewer");
        return 2;
    }
    if (start(public_part, memory_of(memory)) || carry_out("setup", safenet_client_prepare(run.client, 0), costs)) {
        return 1;
    }
    tell("setup", &costs[SAFENET_SETUP]);
    while ((image = board_argument())) {
        if (read_image(image) ||
            carry_out(image, safenet_client_stream_fixed(run.client, run.values, run.info.inputs), costs)) {
            return 1;
        }
        tell("prepare", &costs[SAFENET_PREPARE]);
        tell("online", &costs[SAFENET_INFER]);
        if (safenet_client_output_fixed(run.client, run.outputs, run.info.outputs)) {
            complain(image, safenet_client_error(run.client));
            return 1;
        }
        if (answer(image, &costs[SAFENET_PREPARE], &costs[SAFENET_INFER])) {
            return 1;
        }
    }
    if (carry_out("close", safenet_client_close(run.client), costs)) {
        return 1;
    }
    struct text line = {{0}, 0};
    add(&line, "memory arena=");
    add_number(&line, safenet_arena_peak());
    add(&line, " stack=");
    add_number(&line, stack_peak());
    add(&line, " static=");
    add_number(&line, (uint64_t)(static_end - static_start));
    add(&line, "\n");
    board_print(line.bytes);
    safenet_client_free(run.client);
    safenet_client_model_free(run.model);
    return 0;
}
