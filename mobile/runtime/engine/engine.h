/* The engine: loads an exported program and runs its layers over the K/V rings of any number of conversations.
 *
 * It knows positions, rows and windows, and nothing of text, sampling or speculation. Every function returns one of
 * `ei_code` and fills `error` when it is not EI_OK. No exception and no signal of the engine's own crosses this header.
 *
 * Calls on one model may come from any thread; they run one after the other. A cache outlives its model safely: the
 * program is freed with the last of them.
 */
#ifndef EDGEINFER_ENGINE_H
#define EDGEINFER_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define EI_API __declspec(dllexport)
#else
#define EI_API __attribute__((visibility("default")))
#endif

/* The numbers are the exit codes of the errors of the same name in edgeinfer/errors.py. */
typedef enum {
  EI_OK = 0,
  EI_USAGE_ERROR = 2,    /* an argument that no program could take */
  EI_ARTIFACT_ERROR = 4, /* the file is damaged, or of another version */
  EI_ENGINE_ERROR = 70   /* loading or running failed; the message holds ExecuTorch's first complaint */
} ei_code;

typedef struct {
  char message[512]; /* one line, ended by 0 */
} ei_error;

/* How K and V are kept. */
typedef enum {
  EI_KV_F32 = 0,
  EI_KV_F16 = 1,
  EI_KV_Q8 = 2 /* 8 bits a value, and one float32 scale for each head and position */
} ei_kv_type;

typedef struct {
  size_t size;                   /* sizeof(ei_options), so that fields can be added */
  int32_t n_threads;             /* of the processor; 0: one per performance core, as ExecuTorch counts them */
  const char* packed_cache_path; /* a file for XNNPACK's packed weights, at most 255 bytes; NULL: keep them in memory */
  int32_t kv_type;               /* an ei_kv_type */
} ei_options;

typedef struct {
  int64_t n_layers;
  int64_t n_kv_heads;
  int64_t head_dim;
  int64_t hidden;
  int64_t n_vocab;
  int64_t limit;      /* the first position that the model cannot take */
  int64_t exit_layer; /* drafting runs layers [0, exit_layer); 0: the model does not draft */
  int64_t max_tokens; /* of one forward */
  int64_t max_rows;   /* of logits that one forward gives */
  int64_t n_threads;
  int64_t draft_exit_layer; /* a taught draft on the states after these layers; 0: it has none, or is of another kind */
  int64_t draft_n_taps;     /* states of the model that a taught draft needs at every position; 0: likewise */
  int64_t draft_n_ranked;   /* tokens among which a taught draft chooses; 0: there is no taught draft */
} ei_info;

/* As edgeinfer/window.py. */
typedef struct {
  int64_t window;
  int64_t sink;
  int64_t block;
  int64_t limit;
} ei_policy;

typedef struct ei_model ei_model;
typedef struct ei_cache ei_cache;
typedef struct ei_taught ei_taught;

EI_API ei_code ei_open(const char* path, const ei_options* options, ei_model** model, ei_error* error);
EI_API void ei_describe(const ei_model* model, ei_info* info);
EI_API void ei_close(ei_model* model);

/* K and V of one conversation, `window + sink` slots in each layer. */
EI_API ei_code ei_cache_new(ei_model* model, const ei_policy* policy, ei_cache** cache, ei_error* error);
EI_API int64_t ei_cache_bytes(const ei_cache* cache);
EI_API void ei_cache_free(ei_cache* cache);

/* All layers for `tokens` [n] at `position` and on. `logits` [n_rows, n_vocab]: those of the last `n_rows` tokens;
 * with n_rows 0 only K and V are written, and `logits` may be NULL. */
EI_API ei_code ei_forward(ei_cache* cache, const int64_t* tokens, int64_t n, int64_t position, int64_t n_rows,
                          float* logits, ei_error* error);

/* The same, with the tapped states of all tokens: `tapped` [n, draft_n_taps, hidden]. */
EI_API ei_code ei_forward_tapped(ei_cache* cache, const int64_t* tokens, int64_t n, int64_t position, int64_t n_rows,
                                 float* logits, float* tapped, ei_error* error);

/* Layers [0, exit_layer) and the head for one token: `logits` [n_vocab], `state` [hidden]. */
EI_API ei_code ei_draft(ei_cache* cache, int64_t token, int64_t position, float* logits, float* state,
                        ei_error* error);

/* Layers [0, exit_layer) for `tokens` [n]: `states` [n, hidden]. With a taught draft, exit_layer is draft_exit_layer
 * here and in ei_verify. */
EI_API ei_code ei_front(ei_cache* cache, const int64_t* tokens, int64_t n, int64_t position, float* states,
                        ei_error* error);

/* Layers [exit_layer, n_layers) for `states` [n, hidden]: `logits` [n_rows, n_vocab] of the last `n_rows`. */
EI_API ei_code ei_verify(ei_cache* cache, const float* states, int64_t n, int64_t position, int64_t n_rows,
                         float* logits, ei_error* error);

/* A taught draft on one conversation: K and V of its one layer, at the positions of the conversation. */
EI_API ei_code ei_taught_new(ei_model* model, const ei_policy* policy, ei_taught** draft, ei_error* error);
EI_API void ei_taught_free(ei_taught* draft);

/* What the tapped states [n, draft_n_taps, hidden] of n positions say: `known` [n, hidden]. */
EI_API ei_code ei_taught_known(ei_taught* draft, const float* tapped, int64_t n, float* known, ei_error* error);

/* The inputs [n, hidden] of the layer for `tokens` [n] and what is `known` [n, hidden] of the positions before them. */
EI_API ei_code ei_taught_input(ei_taught* draft, const int64_t* tokens, const float* known, int64_t n, float* inputs,
                               ei_error* error);

/* The layer for `inputs` [n, hidden] at `position` and on, and of the last one the `logits` [draft_n_ranked] and the
 * `state` [hidden]. No key lies before the position `first`. */
EI_API ei_code ei_taught_layer(ei_taught* draft, const float* inputs, int64_t n, int64_t position, int64_t first,
                               float* logits, float* state, ei_error* error);

#ifdef __cplusplus
}
#endif
#endif
