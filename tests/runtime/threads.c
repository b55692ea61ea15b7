/* Cancel, close and two sessions at once, for ThreadSanitizer and
 * AddressSanitizer, and a bundle that is refused: threads BUNDLE BROKEN. C99. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "edgeinfer.h"

#define N_ROUNDS 6

static const char* const kNoText = "no model says this";

typedef struct {
  edgeinfer_session* session;
  int32_t first; /* token of the prompt; 0: a chat */
  int64_t max_tokens;
  pthread_mutex_t mutex;
  pthread_cond_t spoke;
  int n_pieces;
  int32_t finish;
} Answer;

static void check(edgeinfer_code code, const edgeinfer_error* error) {
  if (!code) return;
  fprintf(stderr, "%d: %s\n", (int)code, error->cause);
  exit(1);
}

static int32_t take(const edgeinfer_piece* piece, void* user) {
  Answer* answer = user;
  pthread_mutex_lock(&answer->mutex);
  answer->n_pieces += piece->n_tokens > 0;
  pthread_cond_signal(&answer->spoke);
  pthread_mutex_unlock(&answer->mutex);
  return 0;
}

static void* write_answer(void* user) {
  Answer* answer = user;
  edgeinfer_error error;
  edgeinfer_stats stats = edgeinfer_empty_stats();
  edgeinfer_answer_options options = edgeinfer_default_answer_options();
  int32_t prompt[150];
  for (int i = 0; i < 150; ++i) prompt[i] = answer->first + i % 100;
  options.temperature = 0;
  options.max_tokens = (int32_t)answer->max_tokens;
  if (answer->first) {
    check(edgeinfer_generate(answer->session, prompt, 150, &options, take, answer, &stats, &error), &error);
  } else {
    options.stops = &kNoText;
    options.n_stops = 1;
    check(edgeinfer_chat(answer->session, "Tell me a story.", &options, take, answer, &stats, &error), &error);
  }
  answer->finish = stats.finish;
  return NULL;
}

static void start(Answer* answer, edgeinfer_model* model, int32_t first, int64_t max_tokens, pthread_t* thread) {
  edgeinfer_error error;
  pthread_mutex_init(&answer->mutex, NULL);
  pthread_cond_init(&answer->spoke, NULL);
  answer->n_pieces = 0;
  answer->first = first;
  answer->max_tokens = max_tokens;
  check(edgeinfer_session_new(model, NULL, &answer->session, &error), &error);
  pthread_create(thread, NULL, write_answer, answer);
}

static void wait_for_pieces(Answer* answer, int n) {
  pthread_mutex_lock(&answer->mutex);
  while (answer->n_pieces < n) {
    (void)edgeinfer_n_messages(answer->session);
    pthread_cond_wait(&answer->spoke, &answer->mutex);
  }
  pthread_mutex_unlock(&answer->mutex);
}

static void expect(int32_t finish, int32_t expected, const char* what) {
  if (finish == expected) return;
  fprintf(stderr, "%s: ended with %d, not with %d\n", what, (int)finish, (int)expected);
  exit(1);
}

static void expect_refusal(const char* folder) {
  edgeinfer_error error;
  edgeinfer_model* model;
  if (edgeinfer_open(folder, NULL, &model, &error) == EDGEINFER_ARTIFACT_ERROR) return;
  fprintf(stderr, "%s was not refused\n", folder);
  exit(1);
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  expect_refusal(argv[2]);
  for (int round = 0; round < N_ROUNDS; ++round) {
    edgeinfer_error error;
    edgeinfer_model* model;
    edgeinfer_options options = edgeinfer_default_options();
    options.n_threads = 1;
    options.n_sessions = 3;
    check(edgeinfer_open(argv[1], &options, &model, &error), &error);
    Answer canceled, whole, closed;
    pthread_t threads[3];
    start(&canceled, model, 3, 100000, &threads[0]);
    start(&whole, model, 0, 30, &threads[1]);
    start(&closed, model, 90, 100000, &threads[2]);
    wait_for_pieces(&canceled, round);
    edgeinfer_cancel(canceled.session);
    pthread_join(threads[1], NULL);
    wait_for_pieces(&closed, 3);
    edgeinfer_trim_memory(model);
    edgeinfer_close(model);
    pthread_join(threads[0], NULL);
    pthread_join(threads[2], NULL);
    if (round > 0) expect(canceled.finish, EDGEINFER_CANCELED, "canceled");
    if (whole.finish != EDGEINFER_STOP) expect(whole.finish, EDGEINFER_LENGTH, "whole");
    expect(closed.finish, EDGEINFER_CANCELED, "closed");
    edgeinfer_session_free(canceled.session);
    edgeinfer_session_free(whole.session);
    edgeinfer_session_free(closed.session);
  }
  puts("as expected");
  return 0;
}
