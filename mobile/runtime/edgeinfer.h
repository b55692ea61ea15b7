/* edgeinfer: runs the bundles that `edgeinfer export` writes. C99.
 *
 * Every function that can fail returns one of `edgeinfer_code` and fills `error`, which may be NULL, when it is not
 * EDGEINFER_OK. No exception crosses this header. Any number of models and sessions live side by side. They share one
 * thing: the thread pool of ExecuTorch, whose size the newest opening with `n_threads` sets.
 *
 * Threads. A model runs its sessions on one thread of its own, a step of each in turn, and calls callbacks there.
 * `edgeinfer_cancel` and `edgeinfer_close` may be called from any thread at any time. The other calls on one session
 * come from one thread at a time.
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

/* Of the structs below. Another version is refused. */
#define EDGEINFER_VERSION 1

/* The numbers are the exit codes of the errors of the same name in edgeinfer/errors.py. */
typedef enum {
  EDGEINFER_OK = 0,
  EDGEINFER_USAGE_ERROR = 2,    /* a value, a prompt or a call that cannot be used */
  EDGEINFER_BACKEND_ERROR = 3,  /* the engine cannot run here */
  EDGEINFER_ARTIFACT_ERROR = 4, /* a file of the bundle is missing, damaged, or of another version */
  EDGEINFER_ENGINE_ERROR = 70   /* the engine gave up while loading or decoding */
} edgeinfer_code;

/* UTF-8, ended by 0. */
typedef struct {
  char cause[512]; /* one line: what failed, with values and units */
  char hint[256];  /* what to do about it; may be empty */
} edgeinfer_error;

typedef enum {
  EDGEINFER_DRAFT_AUTO = 0,   /* a round drafts where measured costs say that it pays */
  EDGEINFER_DRAFT_NEVER = 1,  /* plain decoding */
  EDGEINFER_DRAFT_LOOKUP = 2, /* every round drafts from repeated text; for tests */
  EDGEINFER_DRAFT_EXIT = 3    /* every round drafts with the early layers; for tests */
} edgeinfer_drafting;

/* How a model is opened. Start from edgeinfer_default_options(). */
typedef struct {
  size_t size;
  uint32_t version;
  int32_t n_threads;        /* of the processor; 0: one per performance core */
  int64_t context;          /* positions of K and V of a session: sink + window; 0: 4096, or fewer by the model */
  int64_t sink;             /* of them, kept for the system prompt; -1: 128, or what the context leaves */
  int32_t n_sessions;       /* that may be open at once */
  int32_t drafting;         /* edgeinfer_drafting */
  const char* cache_folder; /* keeps packed weights and measured costs, so that the next opening takes a moment; NULL:
                               weights are packed in memory, and drafting costs half a second to measure */
} edgeinfer_options;

/* Bytes, from the manifest alone. */
typedef struct {
  size_t size;
  uint32_t version;
  int64_t file_bytes;      /* the bundle on disk */
  int64_t packed_bytes;    /* weights as the processor reads them: clean pages of a file with a cache folder */
  int64_t session_bytes;   /* K and V of one session */
  int64_t workspace_bytes; /* activations, logits, tokenizer and engine */
  int64_t total_bytes;     /* resident with all sessions open */
  int64_t dirty_bytes;     /* of them, what the system cannot take back */
} edgeinfer_memory;

typedef struct {
  size_t size;
  uint32_t version;
  char name[128];
  char license[64];
  int64_t n_vocab;
  int64_t limit;      /* the first position that the model cannot take */
  int64_t window;     /* recent positions that a session keeps */
  int64_t sink;       /* first positions that stay */
  int64_t exit_layer; /* 0: the model does not draft with early layers */
  int64_t exact_rows; /* rows of a round that equal plain decoding bit for bit */
  int64_t n_threads;
  char note[256]; /* what could not be done, such as to keep packed weights; may be empty */
} edgeinfer_info;

typedef struct edgeinfer_model edgeinfer_model;
typedef struct edgeinfer_session edgeinfer_session;

/* A piece of an answer: whole characters of UTF-8, ended by 0. */
typedef struct {
  const char* text;
  size_t n_bytes;
  int32_t thinking;      /* 1: the model's reasoning, not its answer */
  const int32_t* tokens; /* since the last piece; its text may still be held back */
  size_t n_tokens;
} edgeinfer_piece;

/* Called on the model's thread. A result other than 0 ends the answer after this piece. It may call edgeinfer_cancel,
 * and no other function of this header. The piece is valid until it returns. */
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
  int64_t seed; /* the same seed gives the same tokens */
  int32_t max_tokens;
  int32_t thinking;         /* 0: the template is asked for no reasoning, and what begins all the same is ended */
  int32_t think_budget;     /* tokens of reasoning; -1: no limit */
  int32_t batch_ms;         /* pieces come at most this often; 0: one per token */
  const char* const* stops; /* [n_stops]: the answer ends before any of these strings */
  size_t n_stops;
} edgeinfer_answer_options;

typedef enum {
  EDGEINFER_RUNNING = 0,
  EDGEINFER_STOP = 1,    /* the model, a stop string or nothing more to say ended it */
  EDGEINFER_LENGTH = 2,  /* max_tokens */
  EDGEINFER_CANCELED = 3 /* edgeinfer_cancel, or the callback */
} edgeinfer_finish;

/* Counts are tokens, times are seconds: as AnswerStats of edgeinfer/decode/stats.py. */
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

/* Structs to be filled. */
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

/* Reads the manifest of the bundle in `folder`, and nothing else. */
EDGEINFER_API edgeinfer_code edgeinfer_estimate(const char* folder, const edgeinfer_options* options,
                                                edgeinfer_memory* memory, edgeinfer_error* error);

EDGEINFER_API edgeinfer_code edgeinfer_open(const char* folder, const edgeinfer_options* options,
                                            edgeinfer_model** model, edgeinfer_error* error);

EDGEINFER_API edgeinfer_code edgeinfer_describe(const edgeinfer_model* model, edgeinfer_info* info,
                                                edgeinfer_error* error);

/* Gives back what can be made again: scratch memory of the engine, and clean pages of packed weights. */
EDGEINFER_API void edgeinfer_trim_memory(edgeinfer_model* model);

/* Cancels running answers, waits for them, and frees the model. Its sessions refuse all but edgeinfer_session_free. */
EDGEINFER_API void edgeinfer_close(edgeinfer_model* model);

/* A conversation with a cache of its own. `system` is its system prompt; NULL: none. */
EDGEINFER_API edgeinfer_code edgeinfer_session_new(edgeinfer_model* model, const char* system,
                                                   edgeinfer_session** session, edgeinfer_error* error);

/* Frees the session, after its answer was canceled. NULL does nothing. */
EDGEINFER_API void edgeinfer_session_free(edgeinfer_session* session);

/* Answers `text`, which becomes the next message of the conversation with the answer. Returns when the answer has
 * ended. A canceled answer keeps what was said; without a word, neither message is kept. `callback` and `stats` may be
 * NULL. */
EDGEINFER_API edgeinfer_code edgeinfer_chat(edgeinfer_session* session, const char* text,
                                            const edgeinfer_answer_options* options, edgeinfer_callback callback,
                                            void* user, edgeinfer_stats* stats, edgeinfer_error* error);

/* What follows `prompt` [n], token ids without a template. The conversation's messages stay as they are. */
EDGEINFER_API edgeinfer_code edgeinfer_generate(edgeinfer_session* session, const int32_t* prompt, size_t n,
                                                const edgeinfer_answer_options* options, edgeinfer_callback callback,
                                                void* user, edgeinfer_stats* stats, edgeinfer_error* error);

/* Ends the running answer: between two pieces of its prompt, or after the running round. Returns when the engine no
 * longer works on it, at once on the model's own thread. Without a running answer it does nothing. */
EDGEINFER_API void edgeinfer_cancel(edgeinfer_session* session);

/* Messages of the conversation, without the system prompt. */
EDGEINFER_API size_t edgeinfer_n_messages(const edgeinfer_session* session);

/* Forgets all messages after the first `n`. The next answer reuses what the cache still holds. */
EDGEINFER_API edgeinfer_code edgeinfer_rewind(edgeinfer_session* session, size_t n, edgeinfer_error* error);

#ifdef __cplusplus
}
#endif
#endif
