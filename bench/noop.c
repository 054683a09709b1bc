/*
 * A function with the arguments and the result of rgrid_heartbeat() that does nothing: what a call costs before any
 * work is done. A heartbeat is compared with it, because nothing that is called through SQL can be faster.
 */
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(noop_heartbeat);

Datum
noop_heartbeat(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(1);
}
