/* Has a server's network look at images that the server does not get to see. */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <inttypes.h>
#include <safenet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "image.h"

const char *const program_name = "client";

static const char usage[] =
    "usage: client HOST:PORT --model PUBLIC [options] IMAGE...\n"
    "\n"
    "Has the server at HOST:PORT evaluate its network on images, without showing them. PUBLIC is the file with the\n"
    "public part of the server's model. An IMAGE is an 8-bit binary PGM (P5) or PPM (P6) of the size of the model's\n"
    "input, scaled to 0 .. 1; a file of little-endian 32-bit floats (.f32); or numbers as text. Prints each image's\n"
    "class (the largest output), scores, bytes and times.\n"
    "\n"
    "  --model PUBLIC   public part of the server's model\n"
    "  --prepare N      prepare N inferences at a time (as many as there are images, at most 64)\n"
    "  --ot EXTENSION   2, 4 or 8 (4): more sends less and computes more; silent: sends least, takes memory\n"
    "  --round-trips N  2, 3 or auto (3), of a ReLU of at most 13 bits: 2 sends more than twice the bytes. auto: 2 if the\n"
    "                   round trips saved take longer than the bytes added, from the time that connecting takes\n"
    "  --mbit RATE      for auto: what the connection carries, in 10^6 bits per second each way (100)\n"
    "  --poll US        wait for the server awake for up to US microseconds, where processors are idle (500); 0: never\n"
    "  --threads N      threads that compute (1)\n"
    "  --json FILE      also write one JSON object per image and line to FILE\n"
    "  --help           this text\n";

/* What an operation has taken: milliseconds, bytes of both directions, round trips. */
struct cost {
    double ms;
    uint64_t bytes;
    uint64_t rounds;
};

/* A session with everything that belongs to it. */
struct run {
    struct connection connection;
    safenet_client_model *model;
    safenet_model_info info;
    safenet_client *client;
    float *scores;
    int32_t *outputs;
    FILE *json;
};

static uint64_t all_bytes(const safenet_stats *stats)
{
    return stats->setup.sent + stats->setup.received + stats->prepare.sent + stats->prepare.received +
           stats->infer.sent + stats->infer.received;
}

static uint64_t all_rounds(const safenet_stats *stats)
{
    return stats->setup.rounds + stats->prepare.rounds + stats->infer.rounds;
}

/* Carries out the operation that was just started (`status` is what starting it returned), and measures it. */
static int carry_out(struct run *run, const char *what, safenet_status status, struct cost *cost)
{
    safenet_stats before, after;
    before.size = sizeof before;
    after.size = sizeof after;
    double start = now_ms();
    if (status == SAFENET_OK) {
        status = safenet_client_stats(run->client, &before);
    }
    if (status == SAFENET_OK) {
        status = safenet_client_run(run->client, read_socket, write_socket, &run->connection);
    }
    if (status == SAFENET_OK) {
        status = safenet_client_stats(run->client, &after);
    }
    if (status != SAFENET_OK) {
        complain("%s: %s: %s%s", what, safenet_status_text(status), safenet_client_error(run->client),
                 connection_error(&run->connection));
        return -1;
    }
    cost->ms = now_ms() - start;
    cost->bytes = all_bytes(&after) - all_bytes(&before);
    cost->rounds = all_rounds(&after) - all_rounds(&before);
    return 0;
}

static void json_string(FILE *file, const char *text)
{
    fputc('"', file);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            fprintf(file, "\\%c", c);
        } else if (c < 0x20) {
            fprintf(file, "\\u%04x", c);
        } else {
            fputc(c, file);
        }
    }
    fputc('"', file);
}

static void report(struct run *run, const char *path, const struct cost *prepare, const struct cost *online)
{
    size_t class = run->info.class_output ? (size_t)run->outputs[0] : 0;
    for (size_t i = 1; i < run->info.outputs && !run->info.class_output; i++) {
        if (run->outputs[i] > run->outputs[class]) {
            class = i;
        }
    }
    printf("%s: class %zu\n  scores", path, class);
    for (size_t i = 0; i < run->info.outputs; i++) {
        printf(" %g", (double)run->scores[i]);
    }
    printf("\n  prepare %.1f ms, %" PRIu64 " bytes, %" PRIu64 " rounds; online %.1f ms, %" PRIu64
           " bytes, %" PRIu64 " rounds\n",
           prepare->ms, prepare->bytes, prepare->rounds, online->ms, online->bytes, online->rounds);
    fflush(stdout);
    if (!run->json) {
        return;
    }
    fputs("{\"image\":", run->json);
    json_string(run->json, path);
    fprintf(run->json, ",\"class\":%zu,\"outputs\":[", class);
    for (size_t i = 0; i < run->info.outputs; i++) {
        fprintf(run->json, "%s%" PRId32, i ? "," : "", run->outputs[i]);
    }
    fputs("],\"scores\":[", run->json);
    for (size_t i = 0; i < run->info.outputs; i++) {
        fprintf(run->json, "%s%.9g", i ? "," : "", (double)run->scores[i]);
    }
    fprintf(run->json,
            "],\"prepare_ms\":%.3f,\"online_ms\":%.3f,\"prepare_bytes\":%" PRIu64 ",\"online_bytes\":%" PRIu64
            ",\"rounds_prepare\":%" PRIu64 ",\"rounds_online\":%" PRIu64 "}\n",
            prepare->ms, online->ms, prepare->bytes, online->bytes, prepare->rounds, online->rounds);
}

/* One inference on the oldest prepared bundle. */
static int infer(struct run *run, const char *path, const float *values, const struct cost *prepare)
{
    struct cost online;
    safenet_status status = safenet_client_infer(run->client, NULL, values, run->info.inputs);
    if (carry_out(run, path, status, &online)) {
        return -1;
    }
    if (safenet_client_output(run->client, run->scores, run->info.outputs) != SAFENET_OK ||
        safenet_client_output_fixed(run->client, run->outputs, run->info.outputs) != SAFENET_OK) {
        complain("%s: %s", path, safenet_client_error(run->client));
        return -1;
    }
    report(run, path, prepare, &online);
    return 0;
}

/* The whole session: keys, then runs of prepared inferences, then the end. */
static int infer_all(struct run *run, char **paths, float **inputs, size_t count, size_t at_a_time)
{
    struct cost setup, closing, *prepared = calloc(at_a_time, sizeof *prepared);
    int result = -1;
    if (!prepared) {
        complain("memory for %zu prepared inferences: expected some, got none", at_a_time);
        return -1;
    }
    if (carry_out(run, "opening the session", safenet_client_prepare(run->client, 0), &setup)) {
        goto done;
    }
    printf("session: %.1f ms, %" PRIu64 " bytes, %" PRIu64 " rounds\n", setup.ms, setup.bytes, setup.rounds);
    for (size_t first = 0; first < count; first += at_a_time) {
        size_t now = count - first < at_a_time ? count - first : at_a_time;
        for (size_t i = 0; i < now; i++) {
            /* One by one, so that each has its own figures. */
            if (carry_out(run, "preparing an inference", safenet_client_prepare(run->client, 1), &prepared[i])) {
                goto done;
            }
        }
        for (size_t i = 0; i < now; i++) {
            if (infer(run, paths[first + i], inputs[first + i], &prepared[i])) {
                goto done;
            }
        }
    }
    result = carry_out(run, "closing the session", safenet_client_close(run->client), &closing);
done:
    free(prepared);
    return result;
}

static int load_model(struct run *run, const char *path)
{
    char error[512];
    size_t size;
    uint8_t *contents = read_file(path, &size);
    if (!contents) {
        return -1;
    }
    safenet_status status = safenet_client_model_load(contents, size, &run->model, error, sizeof error);
    free(contents);
    if (status == SAFENET_OK) {
        run->info.size = sizeof run->info;
        status = safenet_client_model_info(run->model, &run->info, error, sizeof error);
    }
    if (status != SAFENET_OK) {
        complain("%s: %s", path, error);
        return -1;
    }
    run->scores = calloc(run->info.outputs, sizeof *run->scores);
    run->outputs = calloc(run->info.outputs, sizeof *run->outputs);
    if (!run->scores || !run->outputs) {
        complain("memory for %zu outputs: expected some, got none", run->info.outputs);
        return -1;
    }
    printf("model %s: input %ux%ux%u, %zu outputs\n", run->info.name, run->info.input_channels, run->info.input_height,
           run->info.input_width, run->info.outputs);
    return 0;
}

/* For --round-trips: by the time of a round trip and the rate. */
#define ROUND_TRIPS_AUTO 1

static int open_session(struct run *run, const char *target, safenet_options *options, long mbit)
{
    char error[512];
    double round_trip_ms;
    safenet_status status = SAFENET_OK;
    options->size = sizeof *options;
    if (options->relu_round_trips == ROUND_TRIPS_AUTO) {
        run->connection.fd = connect_to(target, &round_trip_ms);
        if (run->connection.fd < 0) {
            return -1;
        }
        status = safenet_client_model_round_trips(run->model, round_trip_ms / 1e3, (double)mbit * 1e6 / 8,
                                                  &options->relu_round_trips, error, sizeof error);
        if (status == SAFENET_OK) {
            printf("ReLUs in %" PRIu32 " round trips: one takes %.3f ms, at %ld Mbit/s\n", options->relu_round_trips,
                   round_trip_ms, mbit);
        }
    }
    if (status == SAFENET_OK) {
        status = safenet_client_new(run->model, options, &run->client, error, sizeof error);
    }
    if (status != SAFENET_OK) {
        complain("%s", error);
        return -1;
    }
    if (run->connection.fd < 0) {
        run->connection.fd = connect_to(target, &round_trip_ms);
    }
    return run->connection.fd < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
    const char *target = NULL, *public_part = NULL, *json = NULL, *value;
    long prepare = 0, ot_extension = 0, round_trips = 0, mbit = 100, poll_us = POLL_US, threads = 1;
    /* The images' names are gathered at the front of argv. */
    int images = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(usage, stdout);
            return 0;
        } else if (!strcmp(argv[i], "--model")) {
            if (!(public_part = option_argument(argc, argv, &i))) {
                return 2;
            }
        } else if (!strcmp(argv[i], "--json")) {
            if (!(json = option_argument(argc, argv, &i))) {
                return 2;
            }
        } else if (!strcmp(argv[i], "--prepare")) {
            if (!(value = option_argument(argc, argv, &i)) || parse_number("--prepare", value, 1, 100000, &prepare)) {
                return 2;
            }
        } else if (!strcmp(argv[i], "--threads")) {
            if (!(value = option_argument(argc, argv, &i)) || parse_number("--threads", value, 1, 100000, &threads)) {
                return 2;
            }
        } else if (!strcmp(argv[i], "--ot")) {
            if (!(value = option_argument(argc, argv, &i))) {
                return 2;
            }
            if (!strcmp(value, "silent")) {
                ot_extension = SAFENET_OT_SILENT;
            } else if (parse_number("--ot", value, 2, 8, &ot_extension)) {
                return 2;
            }
        } else if (!strcmp(argv[i], "--round-trips")) {
            if (!(value = option_argument(argc, argv, &i))) {
                return 2;
            }
            if (!strcmp(value, "auto")) {
                round_trips = ROUND_TRIPS_AUTO;
            } else if (parse_number("--round-trips", value, 2, 3, &round_trips)) {
                return 2;
            }
        } else if (!strcmp(argv[i], "--mbit")) {
            if (!(value = option_argument(argc, argv, &i)) || parse_number("--mbit", value, 1, 1000000, &mbit)) {
                return 2;
            }
        } else if (!strcmp(argv[i], "--poll")) {
            if (!(value = option_argument(argc, argv, &i)) || parse_number("--poll", value, 0, MOST_POLL_US, &poll_us)) {
                return 2;
            }
        } else if (argv[i][0] == '-') {
            complain("expected HOST:PORT, --model, --prepare, --ot, --round-trips, --mbit, --poll, --threads, --json, --help or an IMAGE, got '%s'", argv[i]);
            return 2;
        } else if (!target) {
            target = argv[i];
        } else {
            argv[images++] = argv[i];
        }
    }
    if (!target || !public_part || !images) {
        complain("expected %s, got none (try --help)",
                 !target ? "HOST:PORT" : !public_part ? "--model PUBLIC" : "an IMAGE");
        return 2;
    }
    size_t count = (size_t)images, at_a_time = prepare ? (size_t)prepare : count < 64 ? count : 64;

    struct run run;
    memset(&run, 0, sizeof run);
    run.connection.fd = -1;
    run.connection.poll_us = poll_us;
    float **inputs = calloc(count, sizeof *inputs);
    int result = 1;
    if (!inputs) {
        complain("memory for %zu images: expected some, got none", count);
        goto done;
    }
    /* Whatever can be wrong on this side is found before the server is asked for anything. */
    if (load_model(&run, public_part)) {
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        if (!(inputs[i] = read_input(argv[i], &run.info))) {
            goto done;
        }
    }
    if (json && !(run.json = fopen(json, "w"))) {
        complain("--json %s: expected a file that can be written, got: %s", json, strerror(errno));
        goto done;
    }
    safenet_options options;
    memset(&options, 0, sizeof options);
    options.ot_extension = (uint32_t)ot_extension;
    options.relu_round_trips = (uint32_t)round_trips;
    options.threads = (uint32_t)threads;
    if (open_session(&run, target, &options, mbit) || infer_all(&run, argv, inputs, count, at_a_time)) {
        goto done;
    }
    result = 0;
done:
    if (run.json && (fflush(run.json) || ferror(run.json))) {
        complain("--json %s: expected to write it, got: %s", json, strerror(errno));
        result = 1;
    }
    if (run.json) {
        fclose(run.json);
    }
    safenet_client_free(run.client);
    safenet_client_model_free(run.model);
    if (run.connection.fd >= 0) {
        close(run.connection.fd);
    }
    for (size_t i = 0; inputs && i < count; i++) {
        free(inputs[i]);
    }
    free(inputs);
    free(run.scores);
    free(run.outputs);
    return result;
}
