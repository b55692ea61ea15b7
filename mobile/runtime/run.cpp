// edgeinfer-run: answers from a bundle at the command line.
#include "edgeinfer.h"

int main() { return EDGEINFER_USAGE_ERROR; }
