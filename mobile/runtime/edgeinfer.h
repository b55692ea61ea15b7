/* edgeinfer: runs the bundles that `edgeinfer export` writes. C99.
 *
 * Every function that can fail returns an `edgeinfer_code`. When it is not EDGEINFER_OK, the function fills `error`,
 * which may be NULL. No exception crosses this header. Any number of models and sessions can be open at the same time.
 * They share only ExecuTorch's thread pool: the latest opening with `n_threads` sets its size.
 *
 * Threads: a model runs all of its sessions on one thread of its own, one step of each in turn, and calls callbacks on
 * that thread. `edgeinfer_cancel` and `edgeinfer_close` may be called from any thread at any time. Make all other calls
 * on a session from one thread at a time.
 *
 * Files: an open model maps its program. To update a bundle, write the new one beside it and rename it. A program that
 * is overwritten or cut in place while it is open ends the process.
 */
#ifndef EDGEINFER_H
#define EDGEINFER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define EDGEINFER_API __declspec(dllexport)
#else
#define EDGEINFER_API __attribute__((visibility("default")))
#endif

/* Version of the structs below. A struct of another version is refused. */
#define EDGEINFER_VERSION 2

/* The numbers are the exit codes of the errors of the same name in edgeinfer/errors.py. */
typedef enum {
  EDGEINFER_OK = 0,
  EDGEINFER_USAGE_ERROR = 2,    /* an invalid value, prompt or call */
  EDGEINFER_BACKEND_ERROR = 3,  /* the engine cannot run here */
  EDGEINFER_ARTIFACT_ERROR = 4, /* a file of the bundle is missing, damaged, or of another version */
  EDGEINFER_ENGINE_ERROR = 70   /* the engine failed while loading or decoding */
} edgeinfer_code;

/* UTF-8 with a terminating 0. */
typedef struct {
  char cause[512]; /* one line: what failed, with values and units */
  char hint[256];  /* what to do about it; may be empty */
} edgeinfer_error;

typedef enum {
  EDGEINFER_DRAFT_AUTO = 0,   /* draft when the measured costs say that it pays */
  EDGEINFER_DRAFT_NEVER = 1,  /* plain decoding */
  EDGEINFER_DRAFT_LOOKUP = 2, /* draft from repeated text in every round; for tests */
  EDGEINFER_DRAFT_EXIT = 3,   /* draft with the early layers in every round; for tests */
  EDGEINFER_DRAFT_TAUGHT = 4  /* draft with the bundle's taught draft, as far as possible, in every round; for tests */
} edgeinfer_drafting;

/* How a model is opened. Start from edgeinfer_default_options(). */
typedef struct {
  size_t size;
  uint32_t version;
  int32_t n_threads;        /* 0: one per performance core */
  int64_t context;          /* K/V positions of a session, sink + window; 0: 4096, or the model's limit if lower */
  int64_t sink;             /* positions kept for the system prompt; -1: 128, or fewer in a small context */
  int32_t n_sessions;       /* open at the same time, at most */
  int32_t drafting;         /* edgeinfer_drafting */
  const char* cache_folder; /* for packed weights and measured costs, which make the next opening fast; NULL: weights
                               are packed in memory, and measuring the costs adds half a second */
} edgeinfer_options;

/* Memory that a bundle needs, in bytes, computed from its manifest. */
typedef struct {
  size_t size;
  uint32_t version;
  int64_t file_bytes;      /* the bundle on disk */
  int64_t packed_bytes;    /* weights as the processor reads them; with a cache folder, clean pages of a file */
  int64_t session_bytes;   /* K and V of one session, and what a taught draft keeps */
  int64_t workspace_bytes; /* activations, logits, tokenizer and engine */
  int64_t total_bytes;     /* resident with all sessions open */
  int64_t dirty_bytes;     /* the part of total_bytes that the system cannot reclaim */
} edgeinfer_memory;

typedef struct {
  size_t size;
  uint32_t version;
  char name[128];
  char license[64];
  int64_t n_vocab;
  int64_t limit;      /* positions that the model supports */
  int64_t window;     /* recent positions that a session keeps */
  int64_t sink;       /* first positions that a session keeps */
  int64_t exit_layer; /* layers that draft early; 0: none */
  int64_t exact_rows; /* rows of a round that equal plain decoding bit for bit */
  int64_t n_threads;
  char draft[16]; /* the taught draft that sessions use: "feature" or "exit"; empty: none */
  char note[256]; /* what could not be done, for example keeping packed weights; may be empty */
} edgeinfer_info;

typedef struct edgeinfer_model edgeinfer_model;
typedef struct edgeinfer_session edgeinfer_session;

/* A piece of an answer: whole UTF-8 characters with a terminating 0. */
typedef struct {
  const char* text;
  size_t n_bytes;
  int32_t thinking;      /* 1: the model's reasoning, not its answer */
  const int32_t* tokens; /* new since the last piece; their text may come with a later one */
  size_t n_tokens;
} edgeinfer_piece;

/* Called on the model's thread. A result other than 0 ends the answer after this piece. The callback may call
 * edgeinfer_cancel, and no other function of this header. The piece is valid until the callback returns. */
typedef int32_t (*edgeinfer_callback)(const edgeinfer_piece* piece, void* user);

/* How an answer is written. Start from edgeinfer_default_answer_options(). */
typedef struct {
  size_t size;
  uint32_t version;
  double temperature;    /* 0: the most likely token at every step */
  int32_t top_k;         /* 0: off */
  double top_p;          /* 1: off */
  double min_p;          /* 0: off */
  double repeat_penalty; /* 1: off */
  int32_t repeat_last_n;
  double presence_penalty;
  double frequency_penalty;
  int64_t seed; /* the same seed generates the same tokens */
  int32_t max_tokens;
  int32_t thinking;         /* 0: ask the template for no reasoning, and end any that begins */
  int32_t think_budget;     /* tokens of reasoning; -1: no limit */
  int32_t batch_ms;         /* least time between two pieces; 0: one piece per token */
  const char* const* stops; /* [n_stops]: the answer ends before the first of these strings */
  size_t n_stops;
} edgeinfer_answer_options;

typedef enum {
  EDGEINFER_RUNNING = 0,
  EDGEINFER_STOP = 1,    /* the model ended its turn, or a stop string came */
  EDGEINFER_LENGTH = 2,  /* max_tokens */
  EDGEINFER_CANCELED = 3 /* edgeinfer_cancel, or the callback */
} edgeinfer_finish;

/* Counts in tokens, times in seconds; AnswerStats of edgeinfer/decode/stats.py describes each. */
typedef struct {
  size_t size;
  uint32_t version;
  int32_t finish; /* edgeinfer_finish */
  int64_t prompt;
  int64_t reused;
  int64_t prefilled;
  int64_t reprefilled;
  int64_t kept;
  int64_t evicted;
  int64_t reanchored;
  int64_t emitted;
  int64_t rounds;
  int64_t drafted;
  int64_t accepted;
  double prefill_s;
  double first_token_s;
  double decode_s;
} edgeinfer_stats;

static inline edgeinfer_options edgeinfer_default_options(void) {
  edgeinfer_options options;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.version = EDGEINFER_VERSION;
  options.sink = -1;
  options.n_sessions = 1;
  return options;
}

static inline edgeinfer_answer_options edgeinfer_default_answer_options(void) {
  edgeinfer_answer_options options;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.version = EDGEINFER_VERSION;
  options.temperature = 1.0;
  options.top_p = 1.0;
  options.repeat_penalty = 1.0;
  options.repeat_last_n = 64;
  options.max_tokens = 2048;
  options.thinking = 1;
  options.think_budget = -1;
  return options;
}

/* Structs for the library to fill. */
static inline edgeinfer_stats edgeinfer_empty_stats(void) {
  edgeinfer_stats stats;
  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  stats.version = EDGEINFER_VERSION;
  return stats;
}

static inline edgeinfer_info edgeinfer_empty_info(void) {
  edgeinfer_info info;
  memset(&info, 0, sizeof info);
  info.size = sizeof info;
  info.version = EDGEINFER_VERSION;
  return info;
}

static inline edgeinfer_memory edgeinfer_empty_memory(void) {
  edgeinfer_memory memory;
  memset(&memory, 0, sizeof memory);
  memory.size = sizeof memory;
  memory.version = EDGEINFER_VERSION;
  return memory;
}

/* Reads the manifest of the bundle in `folder` and loads nothing. */
EDGEINFER_API edgeinfer_code edgeinfer_estimate(const char* folder, const edgeinfer_options* options,
                                                edgeinfer_memory* memory, edgeinfer_error* error);

EDGEINFER_API edgeinfer_code edgeinfer_open(const char* folder, const edgeinfer_options* options,
                                            edgeinfer_model** model, edgeinfer_error* error);

EDGEINFER_API edgeinfer_code edgeinfer_describe(const edgeinfer_model* model, edgeinfer_info* info,
                                                edgeinfer_error* error);

/* Frees memory that the next answer allocates again: scratch memory of the engine. */
EDGEINFER_API void edgeinfer_trim_memory(edgeinfer_model* model);

/* Cancels running answers, waits for their end, and frees the model. Free its sessions with edgeinfer_session_free,
 * before or after; they refuse every other call. */
EDGEINFER_API void edgeinfer_close(edgeinfer_model* model);

/* Starts a conversation with a K/V cache of its own. `system` is the system prompt; NULL: none. */
EDGEINFER_API edgeinfer_code edgeinfer_session_new(edgeinfer_model* model, const char* system,
                                                   edgeinfer_session** session, edgeinfer_error* error);

/* Cancels the running answer, if any, and frees the session. NULL does nothing. */
EDGEINFER_API void edgeinfer_session_free(edgeinfer_session* session);

/* Answers `text`, and returns when the answer has ended. Both become messages of the conversation. A canceled answer is
 * kept as far as it was written; if nothing was written, neither message is kept. `options`, `callback` and `stats` may
 * be NULL. */
EDGEINFER_API edgeinfer_code edgeinfer_chat(edgeinfer_session* session, const char* text,
                                            const edgeinfer_answer_options* options, edgeinfer_callback callback,
                                            void* user, edgeinfer_stats* stats, edgeinfer_error* error);

/* Continues `prompt` [n], token ids that no template is applied to. The messages of the conversation do not change. */
EDGEINFER_API edgeinfer_code edgeinfer_generate(edgeinfer_session* session, const int32_t* prompt, size_t n,
                                                const edgeinfer_answer_options* options, edgeinfer_callback callback,
                                                void* user, edgeinfer_stats* stats, edgeinfer_error* error);

/* Ends the running answer, between two chunks of its prompt or after the current round. Returns when the engine has
 * stopped, or at once when a callback calls it. Does nothing without a running answer. */
EDGEINFER_API void edgeinfer_cancel(edgeinfer_session* session);

/* The number of messages in the conversation, without the system prompt. */
EDGEINFER_API size_t edgeinfer_n_messages(const edgeinfer_session* session);

/* Removes all messages after the first `n`, an even number. The next answer reuses what the cache still holds. */
EDGEINFER_API edgeinfer_code edgeinfer_rewind(edgeinfer_session* session, size_t n, edgeinfer_error* error);

#ifdef __cplusplus
}
#endif
#endif
