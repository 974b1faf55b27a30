/*
 * SAFENet: private neural-network inference between a client, who owns an input, and a server, who owns a network.
 * The client learns the network's output; neither learns anything else. Generated from the library's source.
 *
 * What holds for every function:
 *
 * Status      A function that can fail returns a safenet_status, an int32_t in C: 0 for success, a negative value for an
 *             error. It writes its outputs only on success.
 * Error text  Every error has one, in one of two places. A call on a session (safenet_client, safenet_server) leaves
 *             it in the session: safenet_client_error, safenet_server_error. All other functions take a buffer
 *             `error` of `error_size` bytes, into which they write it on failure, cut to fit and ended by a NUL;
 *             (NULL, 0) if it is not wanted. 512 bytes suit nearly all. No text holds a secret.
 * Pointers    NULL with a length of 0 is an empty buffer. Any other NULL fails with SAFENET_ERROR_NULL_POINTER,
 *             unless the function says what it means.
 * Ownership   What _load or _new made, the _free of the same type frees, once. Buffers stay their caller's: nothing is
 *             kept of them after the call.
 * Threads     A model is immutable and may be used by any number of threads and sessions at once. A session may move
 *             from thread to thread, but only one at a time may use it. It must not go on in two copies (fork(), a
 *             restored snapshot): both would use the same masks.
 * Structs     Those that may grow begin with their size in bytes: set it before the call, and programs and libraries
 *             of different versions understand each other.
 * Quiet       The library opens no files and no sockets, starts no threads unless it is told how many, reads no clock and
 *             prints nothing. Running out of memory aborts the process.
 * Bare metal  Built for a machine without an operating system, the library has no memory and no randomness but what it is
 *             given: define SAFENET_BARE_METAL, call safenet_arena_set first, and set `random` in safenet_options.
 *
 * A client, with `fd` a connected socket and error handling left out:
 *
 *     safenet_client_model_load(contents, contents_size, &model, error, sizeof error);
 *     safenet_client_new(model, NULL, &client, error, sizeof error);
 *     safenet_client_prepare(client, 1);
 *     safenet_client_run(client, read_socket, write_socket, &fd);
 *     safenet_client_infer(client, NULL, image, 784);
 *     safenet_client_run(client, read_socket, write_socket, &fd);
 *     safenet_client_output(client, scores, 10);
 *     safenet_client_close(client);
 *     safenet_client_run(client, read_socket, write_socket, &fd);
 *     safenet_client_free(client);
 *     safenet_client_model_free(model);
 */

#ifndef SAFENET_H
#define SAFENET_H

#include <stddef.h>
#include <stdint.h>

// Version of this interface. Programs built against one version run with every library that has the same. 0 until the
// first stable release.
#define SAFENET_ABI_VERSION 0

// For `ot_extension` of safenet_options.
#define SAFENET_OT_SILENT 1

// For `ot_hash` of safenet_options.
#define SAFENET_HASH_AES 1

// For `ot_hash` of safenet_options.
#define SAFENET_HASH_CHACHA 2

// What a call came to: 0 is success, every error is negative. Values keep their meaning for ever.
enum safenet_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Success.
    SAFENET_OK = 0,
    // A pointer is NULL where the function needs one.
    SAFENET_ERROR_NULL_POINTER = -1,
    // The library has a fault; the session, if it was one, is over. Please report the error text.
    SAFENET_ERROR_PANIC = -2,
    // An argument is outside what the function allows.
    SAFENET_ERROR_INVALID_ARGUMENT = -3,
    // The call came at a moment at which the session cannot take it: an operation is running, another call on the same
    // session has not returned, or the session was closed.
    SAFENET_ERROR_INVALID_STATE = -4,
    // A model file or its public part cannot be read.
    SAFENET_ERROR_MALFORMED_MODEL = -5,
    // A model asks for what this version of the library cannot do.
    SAFENET_ERROR_UNSUPPORTED_MODEL = -6,
    // The two parties do not speak of the same thing: protocol version, parameter set or model differ.
    SAFENET_ERROR_MISMATCH = -7,
    // A message from the other party is not what the protocol calls for at this point.
    SAFENET_ERROR_MALFORMED_MESSAGE = -8,
    // The other party reported an error and stopped.
    SAFENET_ERROR_PEER = -9,
    // A prepared inference was asked for that is unknown, already used, or erased by an abort.
    SAFENET_ERROR_BUNDLE_SPENT = -10,
    // The connection ended before the work was done.
    SAFENET_ERROR_ABORTED = -11,
    // The source of randomness failed.
    SAFENET_ERROR_RANDOMNESS = -12,
    // A read or write callback reported an error.
    SAFENET_ERROR_TRANSPORT = -13,
    // An error of a kind that this version of the interface has no value for; the text says what it is.
    SAFENET_ERROR_OTHER = -14,
    // What was asked for takes more memory than the option `memory` allows; the text says how much.
    SAFENET_ERROR_MEMORY = -15,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum safenet_status safenet_status;
#else
typedef int32_t safenet_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a session needs next, after a call that moved bytes.
enum safenet_state
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // The session needs bytes from the other party to go on.
    SAFENET_WANTS_INPUT = 1,
    // Bytes for the other party are left over, or work for when it has those of this call: send these, then call again with
    // an empty output buffer.
    SAFENET_HAS_OUTPUT = 2,
    // A client's operation is done and all its bytes are out.
    SAFENET_IDLE = 3,
    // The session is over as it should be and all its bytes are out.
    SAFENET_CLOSED = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum safenet_state safenet_state;
#else
typedef int32_t safenet_state;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A phase of a session.
enum safenet_phase
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Keys, once per session.
    SAFENET_SETUP = 1,
    // Preparing inferences, or in a stream their next layer.
    SAFENET_PREPARE = 2,
    // Inference.
    SAFENET_INFER = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum safenet_phase safenet_phase;
#else
typedef int32_t safenet_phase;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A client's session with one server over one connection: owns the input, learns the output.
//
// It does one operation at a time: safenet_client_prepare, _infer, _stream (or _infer_fixed, _stream_fixed) and _close each start one, and
// safenet_client_run or repeated calls of safenet_client_advance carry it out, until the session is idle again (closed,
// after _close). One thread at a time may use a session; a second call while one runs is refused with
// SAFENET_ERROR_INVALID_STATE.
typedef struct safenet_client safenet_client;

// The public part of a model: what a client needs. Immutable: any number of sessions and threads may use it at once.
typedef struct safenet_client_model safenet_client_model;

// A server's session with one client over one connection: owns the weights, learns nothing.
//
// It does what the client asks until the client closes it. One thread at a time may use a session; a second call while one
// runs is refused with SAFENET_ERROR_INVALID_STATE.
typedef struct safenet_server safenet_server;

// A model with its weights: what a server needs. Immutable: any number of sessions and threads may use it at once.
typedef struct safenet_server_model safenet_server_model;

#if defined(SAFENET_BARE_METAL)
// Where the library ends if it cannot go on: it has run out of memory, or has a fault. `text` says which, and is ended by a
// NUL; it holds no secret. The function must not return, nor leave by longjmp(): stop or reset the machine. Secrets are not wiped
// before it is called. If it is NULL, or returns, the library waits for ever.
typedef void (*safenet_fault)(void *context, const char *text);
#endif

// A model's public numbers. Tensors are flat arrays, channel after channel, each row after row: element (c, i, j) is at
// index (c * height + i) * width + j.
typedef struct safenet_model_info {
    // sizeof(safenet_model_info), set before the call.
    size_t size;
    // What the network is called: UTF-8, never NULL. Owned by the model; valid until the model is freed.
    const char *name;
    // Number of input values: channels * height * width.
    size_t inputs;
    // Number of output values.
    size_t outputs;
    // Channels of the input; of a flat vector, its length.
    uint32_t input_channels;
    // Rows of the input; 1 for a flat vector.
    uint32_t input_height;
    // Columns of the input; 1 for a flat vector.
    uint32_t input_width;
    // Channels of the output; of a flat vector, its length.
    uint32_t output_channels;
    // Rows of the output; 1 for a flat vector.
    uint32_t output_height;
    // Columns of the output; 1 for a flat vector.
    uint32_t output_width;
    // A real input x is encoded as the integer round(x * 2^input_fraction_bits).
    int32_t input_fraction_bits;
    // An output integer v stands for the real number v / 2^output_fraction_bits.
    int32_t output_fraction_bits;
    // 1 if the client learns the class alone: each output is the index of the largest score. 0 if the outputs are scores.
    int32_t class_output;
    // Smallest encoded input that the model takes.
    int32_t input_min;
    // Largest encoded input that the model takes.
    int32_t input_max;
    // Hash of the public part. Both parties must have the same; their sessions compare it first.
    uint8_t id[32];
} safenet_model_info;

// A source of cryptographic randomness: fills `size` bytes at `out` with uniform secret bytes that it never gives twice,
// and returns 0; anything else reports that it failed.
typedef int (*safenet_random)(void *context, uint8_t *out, size_t size);

// What a session, or a server's model, may be told when it is made. Set `size` and leave the rest 0 for what suits most; NULL
// instead of a pointer to it means the same.
typedef struct safenet_options {
    // sizeof(safenet_options).
    size_t size;
    // Client: the oblivious-transfer extension. SAFENET_OT_SILENT sends least and takes some 10 MB of memory at either party, if the
    // server accepts it; 2, 4 or 8 is the depth of one that takes none: more sends less and computes more. 0 means 4.
    uint32_t ot_extension;
    // Client: 2 or 3, the round trips of a ReLU of at most 13 bits. 2 sends more than twice the bytes; it pays on links on which a round
    // trip takes longer than these (safenet_client_model_round_trips tells). 0 means 3.
    uint32_t relu_round_trips;
    // Server: most inferences that one session may have prepared and not yet used; a client that asks for more is
    // refused. 0 means 64.
    uint32_t max_bundles;
    // Where the session's randomness comes from: called once, while the session is made, for 32 bytes, from which
    // everything random in the session is expanded. NULL means the operating system, and fails where there is none.
    safenet_random random;
    // Passed to `random`.
    void *random_context;
    // Client, and safenet_server_model_load (a server's sessions use their model's): how many threads compute, at most 256. 0
    // means 1, the caller's own. With more, the library starts as many, which compute while the caller's waits. They end when the
    // client is freed, or the last of a model and its sessions. Bytes and outputs do not depend on the number. The threads have
    // the signal mask of the one that starts them; fork() leaves them behind, so the child must not use the client or model.
    uint32_t threads;
    // Client: most bytes of memory that the session and its model may take of the heap. How much is worked on at a time, and the depth of
    // the OT extension, are chosen so that they fit; safenet_client_prepare fails with SAFENET_ERROR_MEMORY where a prepared
    // inference does not, safenet_client_stream where nothing fits. 0 means that any amount will do.
    size_t memory;
    // Client: what hashes and expands in oblivious transfers, SAFENET_HASH_AES or SAFENET_HASH_CHACHA; a server may refuse the latter. 0 means
    // what is faster on the client's processor: AES where there are instructions for it (x86-64, AArch64), else ChaCha.
    uint32_t ot_hash;
} safenet_options;

// Names one prepared inference of one session. Never reused.
typedef struct safenet_bundle_id {
    // The name's bytes; they hold no secret.
    uint8_t bytes[24];
} safenet_bundle_id;

// Reads from the connection, as recv() does: waits for at least one byte, stores up to `size` bytes at `buffer` and
// returns how many; 0 means that the connection has ended, a negative value that reading failed.
typedef ptrdiff_t (*safenet_read)(void *context, uint8_t *buffer, size_t size);

// Writes to the connection, as send() does: takes up to `size` bytes from `buffer`, at least one, and returns how many; 0
// or a negative value means that writing failed.
typedef ptrdiff_t (*safenet_write)(void *context, const uint8_t *buffer, size_t size);

// What one phase of a session has cost this party.
typedef struct safenet_traffic {
    // Bytes sent, or queued for sending.
    uint64_t sent;
    // Bytes received.
    uint64_t received;
    // Round trips: how often this party waited for the other after having sent something.
    uint64_t rounds;
} safenet_traffic;

// What a session has cost this party so far, by phase.
typedef struct safenet_stats {
    // sizeof(safenet_stats), set before the call.
    size_t size;
    // Keys, once per session.
    struct safenet_traffic setup;
    // Preparing inferences, before their inputs are known.
    struct safenet_traffic prepare;
    // Inference.
    struct safenet_traffic infer;
    // Inferences that are done.
    uint64_t inferences;
} safenet_stats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The SAFENET_ABI_VERSION of the library that is running. A program that loads the library at run time compares it with
// its header's before it calls anything else.
uint32_t safenet_abi_version(void);

// The library's version, such as "0.1.0". Never freed; any thread may call.
const char *safenet_version(void);

// A short English text for a status, such as "bundle spent" for SAFENET_ERROR_BUNDLE_SPENT; "unknown status" for a value
// that is none. Never NULL, never freed; any thread may call. What went wrong in a particular call is in the error text.
const char *safenet_status_text(int32_t status);

#if defined(SAFENET_BARE_METAL)
// Bare metal: gives the library the memory in which everything lives that it allocates, `size` bytes at `memory`, which are
// its own from then on. Call it once, before anything else: other calls fail with SAFENET_ERROR_INVALID_STATE until then.
// `fault` is called with `fault_context` if the library cannot go on. An interrupt handler must not call the library.
//
// Fails with SAFENET_ERROR_INVALID_STATE if the library has memory already and SAFENET_ERROR_INVALID_ARGUMENT if that is too
// little even for its allocator (some hundred bytes).
safenet_status safenet_arena_set(void *memory,
                                 size_t size,
                                 safenet_fault fault,
                                 void *fault_context,
                                 char *error,
                                 size_t error_size);
#endif

#if defined(SAFENET_BARE_METAL)
// Bare metal: how many bytes are allocated now, without what the allocator adds to them.
size_t safenet_arena_used(void);
#endif

#if defined(SAFENET_BARE_METAL)
// Bare metal: how many bytes from the start of the memory were ever in use, with gaps between them. Memory of that size and a
// few hundredths more will do for the same work. 0 before safenet_arena_set.
size_t safenet_arena_peak(void);
#endif

// Loads the public part of a model from the contents of its file (a server's model file does too; its weights are
// dropped). The contents are not needed afterwards. On success `*model` is to be freed with safenet_client_model_free.
//
// Fails with SAFENET_ERROR_MALFORMED_MODEL or SAFENET_ERROR_UNSUPPORTED_MODEL.
safenet_status safenet_client_model_load(const uint8_t *contents,
                                         size_t contents_size,
                                         struct safenet_client_model **model,
                                         char *error,
                                         size_t error_size);

// Tells a model's public numbers. Set `info->size` to sizeof *info first.
safenet_status safenet_client_model_info(const struct safenet_client_model *model,
                                         struct safenet_model_info *info,
                                         char *error,
                                         size_t error_size);

// Tells with which `relu_round_trips` of safenet_options, 2 or 3, an inference takes less time: 2 if the round trips that it
// saves take longer than the bytes that it adds. `round_trip_seconds` is how long a message and its answer are under way
// between the parties, as connect() takes, and `bytes_per_second` what the connection carries, each way. What is no
// number, or not known and therefore 0, leaves it at 3.
safenet_status safenet_client_model_round_trips(const struct safenet_client_model *model,
                                                double round_trip_seconds,
                                                double bytes_per_second,
                                                uint32_t *round_trips,
                                                char *error,
                                                size_t error_size);

// Gives a model back. Sessions made from it keep what they need and go on. NULL is fine.
void safenet_client_model_free(struct safenet_client_model *model);

// Loads a model with its weights from the contents of a server's model file, and transforms the weights for use, which for
// large networks takes seconds. The contents are not needed afterwards. `options` may be NULL; of it only `threads` is looked
// at: they transform the weights, and later compute for all sessions of the model. On success `*model` is to be freed with
// safenet_server_model_free.
//
// Fails with SAFENET_ERROR_MALFORMED_MODEL or SAFENET_ERROR_UNSUPPORTED_MODEL.
safenet_status safenet_server_model_load(const uint8_t *contents,
                                         size_t contents_size,
                                         const struct safenet_options *options,
                                         struct safenet_server_model **model,
                                         char *error,
                                         size_t error_size);

// Tells a model's public numbers. Set `info->size` to sizeof *info first.
safenet_status safenet_server_model_info(const struct safenet_server_model *model,
                                         struct safenet_model_info *info,
                                         char *error,
                                         size_t error_size);

// Gives a model back. Sessions made from it keep what they need and go on. NULL is fine.
void safenet_server_model_free(struct safenet_server_model *model);

// Makes a session for a model. Nothing is sent before safenet_client_prepare. `options` may be NULL. On success `*client`
// is to be freed with safenet_client_free; the model may be freed before it.
safenet_status safenet_client_new(const struct safenet_client_model *model,
                                  const struct safenet_options *options,
                                  struct safenet_client **client,
                                  char *error,
                                  size_t error_size);

// Starts to prepare `count` inferences: all that does not depend on their inputs. The first call also opens the session
// (and does only that if `count` is 0). Inferences that are prepared and not used may be no more than the server's option
// max_bundles says.
//
// Fails with SAFENET_ERROR_INVALID_ARGUMENT if they would be more (in the first call, which cannot know yet, carrying it out
// fails, and the session is over), with SAFENET_ERROR_INVALID_STATE while an operation runs, or with the error that ended
// the session.
safenet_status safenet_client_prepare(struct safenet_client *client,
                                      uint32_t count);

// Tells how many prepared inferences are left; 0 while an operation runs.
safenet_status safenet_client_bundles(const struct safenet_client *client, size_t *count);

// Tells which prepared inference is the oldest. Asked for by this name, an inference is never done twice: a program that
// is unsure whether it has used one may try again and gets SAFENET_ERROR_BUNDLE_SPENT.
//
// Fails with SAFENET_ERROR_BUNDLE_SPENT if none is left.
safenet_status safenet_client_next_bundle(const struct safenet_client *client,
                                          struct safenet_bundle_id *bundle);

// Starts an inference on real numbers: `input` holds `input_count` values, as many as the model's `inputs`, in the order
// that safenet_model_info states. They are rounded to the model's fraction bits, and copied. `bundle` names the prepared
// inference to use, NULL the oldest; it is spent from this moment.
//
// Fails with SAFENET_ERROR_BUNDLE_SPENT if it is not there and SAFENET_ERROR_INVALID_ARGUMENT if the input does not fit the
// model (a wrong count, a value outside the model's range, a NaN): then nothing was sent or spent.
safenet_status safenet_client_infer(struct safenet_client *client,
                                    const struct safenet_bundle_id *bundle,
                                    const float *input,
                                    size_t input_count);

// As safenet_client_infer, on integers: `input` holds round(x * 2^input_fraction_bits) for each real x.
safenet_status safenet_client_infer_fixed(struct safenet_client *client,
                                          const struct safenet_bundle_id *bundle,
                                          const int32_t *input,
                                          size_t input_count);

// Starts an inference in a stream, on real numbers as for safenet_client_infer; the first operation of a session also opens it. Nothing
// need be prepared: each layer is prepared when it is reached, in parts, used and forgotten. So it takes the least memory, and the
// option `memory` may leave no other way; but all its time passes after the input is known, and each part takes round trips of its own.
//
// Fails with SAFENET_ERROR_INVALID_ARGUMENT if the input does not fit the model, with SAFENET_ERROR_MEMORY if the model does not fit the
// option `memory`: then nothing was sent.
safenet_status safenet_client_stream(struct safenet_client *client,
                                     const float *input,
                                     size_t input_count);

// As safenet_client_stream, on integers: `input` holds round(x * 2^input_fraction_bits) for each real x.
safenet_status safenet_client_stream_fixed(struct safenet_client *client,
                                           const int32_t *input,
                                           size_t input_count);

// Copies the output of the last inference that is done as real numbers. `output` has room for `output_count` values, at least as many as
// the model's `outputs`; as many as that are written.
//
// Fails with SAFENET_ERROR_INVALID_STATE if no inference is done and SAFENET_ERROR_INVALID_ARGUMENT if there is too little
// room.
safenet_status safenet_client_output(const struct safenet_client *client,
                                     float *output,
                                     size_t output_count);

// As safenet_client_output, in integers: v stands for the real number v / 2^output_fraction_bits.
safenet_status safenet_client_output_fixed(const struct safenet_client *client,
                                           int32_t *output,
                                           size_t output_count);

// Starts to end the session: the server is told, and what is left of prepared inferences is erased. Without it the server
// reports an aborted session.
//
// Fails with SAFENET_ERROR_INVALID_STATE while an operation runs, or with the error that ended the session.
safenet_status safenet_client_close(struct safenet_client *client);

// Moves bytes and works, in inflate()'s manner: takes bytes that came from the server from the front of `input`, puts bytes
// for the server at the front of `output`, and returns when it needs more of either, or is done. `*consumed` and
// `*produced` say how many of each, `*state` what comes next. Call again with what was not consumed in front of what came
// since. The buffers must not overlap. It never waits; any sizes will do, larger ones save calls.
//
// An error ends the session, and everything prepared is erased; the server learns of it first, so the error comes when
// there is no output left. Every later call returns it again.
safenet_status safenet_client_advance(struct safenet_client *client,
                                      const uint8_t *input,
                                      size_t input_size,
                                      uint8_t *output,
                                      size_t output_size,
                                      size_t *consumed,
                                      size_t *produced,
                                      safenet_state *state);

// Tells the session that the connection has ended: no more input will come. Everything prepared is erased, and every later
// operation fails with SAFENET_ERROR_ABORTED, or the error that ended the session before. Without effect on a session
// that was closed.
safenet_status safenet_client_input_ended(struct safenet_client *client);

// Carries out the operation that was started, over a blocking connection: calls `read` and `write` with `context` until it
// is done. The callbacks must return (no longjmp, no exception) and not call functions of the same session.
//
// Fails with SAFENET_ERROR_TRANSPORT if a callback does; else as safenet_client_advance. After a failure the session is
// over.
safenet_status safenet_client_run(struct safenet_client *client,
                                  safenet_read read,
                                  safenet_write write,
                                  void *context);

// Tells what the session has cost so far. Set `stats->size` to sizeof *stats first.
safenet_status safenet_client_stats(const struct safenet_client *client, struct safenet_stats *stats);

// Tells in which phase the session is, or its last operation ended. In a stream both phases of an inference alternate; a call of
// safenet_client_advance works in the phase in which the session is before it, mostly.
safenet_status safenet_client_phase(const struct safenet_client *client,
                                    safenet_phase *phase);

// The text of the last error on this session: what was expected, what came. UTF-8, one line, empty if there was none, never
// NULL. Owned by the session; valid until the next call on it.
const char *safenet_client_error(const struct safenet_client *client);

// Erases and frees a session. NULL is fine.
void safenet_client_free(struct safenet_client *client);

// Makes a session for a model: one for each connection. `options` may be NULL. On success `*server` is to be freed with
// safenet_server_free; the model may be freed before it.
safenet_status safenet_server_new(const struct safenet_server_model *model,
                                  const struct safenet_options *options,
                                  struct safenet_server **server,
                                  char *error,
                                  size_t error_size);

// Moves bytes and works, in inflate()'s manner: takes bytes that came from the client from the front of `input`, puts bytes
// for the client at the front of `output`, and returns when it needs more of either, or is done. `*consumed` and
// `*produced` say how many of each, `*state` what comes next. Call again with what was not consumed in front of what came
// since. The buffers must not overlap. It never waits; any sizes will do, larger ones save calls.
//
// An error ends the session, and everything prepared is erased; the client learns of it first, so the error comes when
// there is no output left. Every later call returns it again.
safenet_status safenet_server_advance(struct safenet_server *server,
                                      const uint8_t *input,
                                      size_t input_size,
                                      uint8_t *output,
                                      size_t output_size,
                                      size_t *consumed,
                                      size_t *produced,
                                      safenet_state *state);

// Tells the session that the connection has ended: no more input will come. Everything prepared is erased, and
// later calls fail with SAFENET_ERROR_ABORTED, or the error that ended the session before. Without effect on a session that
// is closed.
safenet_status safenet_server_input_ended(struct safenet_server *server);

// Serves the session to its end over a blocking connection: calls `read` and `write` with `context` until the client has
// closed it. The callbacks must return (no longjmp, no exception) and not call functions of the same session.
//
// Fails with SAFENET_ERROR_TRANSPORT if a callback does and SAFENET_ERROR_ABORTED if the connection ends before the client
// has closed the session; else as safenet_server_advance.
safenet_status safenet_server_run(struct safenet_server *server,
                                  safenet_read read,
                                  safenet_write write,
                                  void *context);

// Tells what the session has cost so far. Set `stats->size` to sizeof *stats first.
safenet_status safenet_server_stats(const struct safenet_server *server, struct safenet_stats *stats);

// The text of the last error on this session: what was expected, what came. UTF-8, one line, empty if there was none, never
// NULL. Owned by the session; valid until the next call on it.
const char *safenet_server_error(const struct safenet_server *server);

// Erases and frees a session. NULL is fine.
void safenet_server_free(struct safenet_server *server);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SAFENET_H */
