/*
 * Loaded into a server, it serves the tables of the schema "elsewhere" as an extension does that keeps the rows of a
 * table on other servers and plans statements on it itself. As seen from a session, such a table
 *
 * - has no row in this server's file of it: a library brings the rows, by a custom scan of no relation;
 * - refuses row locks, joins, system columns in conditions, functions that are not immutable in what an UPDATE writes,
 *   triggers, and changes of its first column;
 * - is not reached by lock_timeout: who waits for a row there waits until he is cancelled;
 * - can be away.
 *
 * The rows are in the table of the same name in the schema "shards". The custom scan runs the statement there.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_authid_d.h"
#include "executor/executor.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "parser/parse_relation.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

PG_MODULE_MAGIC;

#define SCHEMA "elsewhere"
#define SCHEMA_OF_ROWS "shards"

/* The setting elsewhere.away: no server that has the rows answers. */
static bool away = false;

static planner_hook_type next_planner;
static ProcessUtility_hook_type next_utility;

/* A statement that is run elsewhere. */
typedef struct Statement
{
    CustomScanState scan;
    PlannedStmt *plan;
    Tuplestorestate *rows; /* what it returned; NULL before it was run */
    TupleTableSlot *row;   /* one of them */
} Statement;

static Node *create_state(CustomScan *scan);

static const CustomScanMethods plan_methods = {"Elsewhere", create_state};

static bool is_elsewhere(Oid table)
{
    char *schema = get_namespace_name(get_rel_namespace(table));

    return schema != NULL && strcmp(schema, SCHEMA) == 0;
}

/* Whether a statement, or a part of it, names a table whose rows are elsewhere. */
static bool names_such(Node *node, void *context)
{
    ListCell *cell;

    if (node == NULL)
        return false;
    if (!IsA(node, Query))
        return expression_tree_walker(node, names_such, context);
    foreach(cell, ((Query *) node)->rtable)
    {
        RangeTblEntry *entry = lfirst(cell);

        if (entry->rtekind == RTE_RELATION && is_elsewhere(entry->relid))
            return true;
    }
    return query_tree_walker((Query *) node, names_such, context, 0);
}

static void refuse(const char *what)
{
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("%s not supported on a table whose rows are elsewhere", what)));
}

static bool has_system_column(Node *node, void *context)
{
    if (node == NULL)
        return false;
    if (IsA(node, Var) && ((Var *) node)->varattno < 0)
        return true;
    return expression_tree_walker(node, has_system_column, context);
}

static void check(Query *query)
{
    List *sources = query->jointree->fromlist;
    ListCell *cell;

    if (query->commandType != CMD_SELECT && query->commandType != CMD_UPDATE)
        refuse("statements but SELECT and UPDATE are");
    if (query->rowMarks != NIL)
        refuse("row locks are");
    if (query->cteList != NIL || list_length(sources) != 1 || !IsA(linitial(sources), RangeTblRef))
        refuse("joins are");
    if (has_system_column(query->jointree->quals, NULL))
        refuse("system columns in conditions are");
    foreach(cell, query->targetList)
    {
        TargetEntry *entry = lfirst(cell);

        if (query->commandType == CMD_UPDATE && contain_mutable_functions((Node *) entry->expr))
            refuse("in an UPDATE functions that are not immutable are");
        if (query->commandType == CMD_UPDATE && entry->resno == 1)
            refuse("changes of the first column, which says where a row is, are");
    }
}

/* The plan that has the statement run elsewhere, whose own plan is `inner`. */
static PlannedStmt *plan_of(Query *query, PlannedStmt *inner)
{
    PlannedStmt *plan = makeNode(PlannedStmt);
    CustomScan *scan = makeNode(CustomScan);
    List *columns = query->commandType == CMD_SELECT ? query->targetList : query->returningList;
    ListCell *cell;

    foreach(cell, columns)
    {
        TargetEntry *entry = lfirst(cell);
        Var *var = makeVar(INDEX_VAR, entry->resno, exprType((Node *) entry->expr),
                           exprTypmod((Node *) entry->expr), exprCollation((Node *) entry->expr), 0);
        TargetEntry *out = makeTargetEntry((Expr *) var, entry->resno, entry->resname, entry->resjunk);

        scan->scan.plan.targetlist = lappend(scan->scan.plan.targetlist, out);
        scan->custom_scan_tlist = lappend(scan->custom_scan_tlist, copyObject(out));
    }
    scan->methods = &plan_methods;
    scan->custom_private = list_make1(inner);

    plan->commandType = query->commandType;
    plan->hasReturning = query->returningList != NIL;
    plan->canSetTag = true;
    plan->planTree = (Plan *) scan;
    plan->rtable = query->rtable;
#if PG_VERSION_NUM >= 160000
    plan->permInfos = query->rteperminfos;
#endif
    plan->relationOids = lappend_oid(list_copy(inner->relationOids), ((RangeTblEntry *) linitial(query->rtable))->relid);
    plan->invalItems = inner->invalItems;
    plan->stmt_location = query->stmt_location;
    plan->stmt_len = query->stmt_len;
    return plan;
}

/* The same statement on the table that has the rows. Who may do that was asked for the other one. */
static Query *on_rows(Query *query)
{
    Query *result = copyObject(query);
    RangeTblEntry *entry = linitial(result->rtable);
#if PG_VERSION_NUM >= 160000
    RTEPermissionInfo *rights = getRTEPermissionInfo(result->rteperminfos, entry);
#else
    RangeTblEntry *rights = entry;
#endif

    rights->checkAsUser = BOOTSTRAP_SUPERUSERID;
    entry->relid = get_relname_relid(get_rel_name(entry->relid), get_namespace_oid(SCHEMA_OF_ROWS, false));
    LockRelationOid(entry->relid, entry->rellockmode);
    entry->relkind = get_rel_relkind(entry->relid);
    entry->inh = true;
#if PG_VERSION_NUM >= 160000
    rights->relid = entry->relid;
#endif
    return result;
}

static PlannedStmt *plan_statement(Query *query, const char *text, int options, ParamListInfo parameters)
{
    bool served = names_such((Node *) query, NULL);
    PlannedStmt *plan;

    if (served)
        check(query);
    plan = (next_planner ? next_planner : standard_planner)(served ? on_rows(query) : query, text, options, parameters);
    return served ? plan_of(query, plan) : plan;
}

static void begin(CustomScanState *node, EState *estate, int flags)
{
    ((Statement *) node)->row = MakeSingleTupleTableSlot(node->ss.ps.ps_ResultTupleDesc, &TTSOpsMinimalTuple);
}

/* Another server has other settings: nobody there waits for so short a time. */
static void run(Statement *statement, EState *estate)
{
    DestReceiver *receiver = CreateDestReceiver(DestTuplestore);
    QueryDesc *query;
    int limit = LockTimeout;

    if (away)
        ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("the server that has the rows is away")));
    statement->rows = tuplestore_begin_heap(false, false, work_mem);
    SetTuplestoreDestReceiverParams(receiver, statement->rows, CurrentMemoryContext, false, NULL, NULL);
    query = CreateQueryDesc(statement->plan, estate->es_sourceText, estate->es_snapshot, InvalidSnapshot, receiver,
                            estate->es_param_list_info, NULL, 0);
    LockTimeout = 0;
    PG_TRY();
    {
        ExecutorStart(query, 0);
#if PG_VERSION_NUM >= 180000
        ExecutorRun(query, ForwardScanDirection, 0);
#else
        ExecutorRun(query, ForwardScanDirection, 0, true);
#endif
        estate->es_processed = query->estate->es_processed;
        ExecutorFinish(query);
        ExecutorEnd(query);
    }
    PG_FINALLY();
    {
        LockTimeout = limit;
    }
    PG_END_TRY();
    FreeQueryDesc(query);
}

static TupleTableSlot *next_row(CustomScanState *node)
{
    Statement *statement = (Statement *) node;
    EState *estate = node->ss.ps.state;
    TupleTableSlot *slot = node->ss.ps.ps_ResultTupleSlot;

    if (statement->rows == NULL)
    {
        MemoryContext before = MemoryContextSwitchTo(estate->es_query_cxt);
        uint64 processed = estate->es_processed;

        run(statement, estate);
        /* The executor counts the rows of a SELECT itself. */
        if (estate->es_plannedstmt->commandType == CMD_SELECT)
            estate->es_processed = processed;
        MemoryContextSwitchTo(before);
    }
    return tuplestore_gettupleslot(statement->rows, true, false, statement->row)
               ? ExecCopySlot(slot, statement->row)
               : ExecClearTuple(slot);
}

static void end(CustomScanState *node)
{
    Statement *statement = (Statement *) node;

    if (statement->rows != NULL)
        tuplestore_end(statement->rows);
    ExecDropSingleTupleTableSlot(statement->row);
}

static void rescan(CustomScanState *node)
{
    tuplestore_rescan(((Statement *) node)->rows);
}

static const CustomExecMethods run_methods = {
    .CustomName = "Elsewhere",
    .BeginCustomScan = begin,
    .ExecCustomScan = next_row,
    .EndCustomScan = end,
    .ReScanCustomScan = rescan,
};

static Node *create_state(CustomScan *scan)
{
    Statement *statement = (Statement *) newNode(sizeof(Statement), T_CustomScanState);

    statement->scan.methods = &run_methods;
    statement->plan = linitial(scan->custom_private);
    return (Node *) statement;
}

static void utility(PlannedStmt *plan, const char *text, bool read_only, ProcessUtilityContext context,
                    ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *receiver,
                    QueryCompletion *completion)
{
    if (IsA(plan->utilityStmt, CreateTrigStmt))
    {
        RangeVar *table = ((CreateTrigStmt *) plan->utilityStmt)->relation;

        if (is_elsewhere(RangeVarGetRelid(table, NoLock, true)))
            elog(ERROR, "triggers are not supported on a table whose rows are elsewhere");
    }
    (next_utility ? next_utility : standard_ProcessUtility)(plan, text, read_only, context, parameters, environment,
                                                            receiver, completion);
}

void _PG_init(void)
{
    DefineCustomBoolVariable("elsewhere.away", "No server that has the rows answers.", NULL, &away, false, PGC_SIGHUP,
                             0, NULL, NULL, NULL);
    RegisterCustomScanMethods(&plan_methods);
    next_planner = planner_hook;
    planner_hook = plan_statement;
    next_utility = ProcessUtility_hook;
    ProcessUtility_hook = utility;
}
