// The C interface. Arguments are checked here, and no exception passes.
#include "edgeinfer.h"

#include "error.h"

static_assert(EDGEINFER_USAGE_ERROR == edgeinfer::kUsageError && EDGEINFER_BACKEND_ERROR == edgeinfer::kBackendError &&
              EDGEINFER_ARTIFACT_ERROR == edgeinfer::kArtifactError &&
              EDGEINFER_ENGINE_ERROR == edgeinfer::kEngineError);
