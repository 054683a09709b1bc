/*
 * A fast heartbeat over PostgreSQL's own shared hash table, dynahash, to measure the extension's table against: the
 * same work for a worker that is known, in a partitioned table of the same number of locks.
 *
 * There are three tables, which differ in one thing each. The first is dynahash as PostgreSQL offers it: the key is a
 * blob. The second is dynahash with a hash of its own that is seeded and reads no more of a key than the id is long, as
 * the extension's. The third has that hash, too, and is laid out as the extension's: against the second, it shows what
 * the layout does, and the extension against it, what is neither the hash's nor the layout's, such as the language.
 *
 * A worker that is not in a table is an error, because then something else would be measured. To be preloaded. Filled
 * once, by dynahash_fill(); nothing is ever taken out.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

#define TRANCHE "dynahash_heartbeat"
#define PARTITIONS 128
#define ID_LENGTH 64
#define WORDS (ID_LENGTH / sizeof(uint64))
#define HEAD_LENGTH 16

typedef struct Key
{
	char		id[ID_LENGTH];	/* filled up with zeroes */
	Oid			database;
} Key;

typedef struct Entry
{
	Key			key;			/* dynahash wants it first */
	pg_atomic_uint64 beat_at;	/* stored with the partition locked shared */
	int64		written;		/* what a flush would need; here for the size only */
	int64		incarnation;
	uint64		hostname;		/* a hash; zero for none */
} Entry;

typedef struct Table
{
	HTAB	   *entries;
	LWLockPadded *locks;		/* one a partition */
} Table;

/* An entry of the table that is laid out as the extension's: one cache line, with the beginning of the id. */
typedef struct Slot
{
	uint64		hash;
	Oid			database;
	uint32		next;			/* of the chain: its number plus one */
	pg_atomic_uint64 beat_at;
	int64		written;
	int64		incarnation;
	uint64		hostname;
	char		head[HEAD_LENGTH];
} Slot;

StaticAssertDecl(sizeof(Slot) == 64, "a slot is one cache line");

typedef struct Tail
{
	char		rest[ID_LENGTH - HEAD_LENGTH];
} Tail;

typedef struct Chained
{
	uint32	   *buckets;		/* the first slot of each chain: its number plus one */
	Slot	   *slots;
	Tail	   *tails;			/* the rest of each slot's id */
	LWLockPadded *locks;
} Chained;

static Table blobs;
static Table seeded;
static Chained chained;
static uint32 bucket_mask;
static uint64 seed;
static int	max_workers;
static shmem_request_hook_type next_request_hook;
static shmem_startup_hook_type next_startup_hook;

void		_PG_init(void);
PG_FUNCTION_INFO_V1(dynahash_heartbeat);
PG_FUNCTION_INFO_V1(dynahash_seeded_heartbeat);
PG_FUNCTION_INFO_V1(chained_heartbeat);
PG_FUNCTION_INFO_V1(dynahash_fill);
PG_FUNCTION_INFO_V1(dynahash_beat_at);
PG_FUNCTION_INFO_V1(dynahash_size);

/* How many words of an id there are: one that ends with a zero is the last. */
static inline int
significant_words(const Key *key)
{
	for (int word = 0; word < WORDS; word++)
		if (key->id[word * sizeof(uint64) + sizeof(uint64) - 1] == '\0')
			return word + 1;
	return WORDS;
}

static inline uint64
mix(uint64 hash, uint64 word)
{
	unsigned __int128 product = (unsigned __int128) (hash ^ word) * (seed | 1);

	return (uint64) product ^ (uint64) (product >> 64);
}

static inline uint64
hash_key(const Key *key)
{
	int			words = significant_words(key);
	uint64		hash = (seed << 32 | seed >> 32) ^ key->database;

	for (int number = 0; number < words; number++)
	{
		uint64		word;

		memcpy(&word, key->id + number * sizeof(word), sizeof(word));
		hash = mix(hash, word);
	}
	return mix(hash, hash >> 32);
}

/* A HashValueFunc. */
static uint32
seeded_hash(const void *key, Size size)
{
	return (uint32) hash_key(key);
}

/* A HashCompareFunc. */
static int
seeded_compare(const void *one, const void *other, Size size)
{
	const Key  *key = other;

	if (((const Key *) one)->database != key->database)
		return 1;
	return memcmp(((const Key *) one)->id, key->id, significant_words(key) * sizeof(uint64));
}

static Size
slots_offset(void)
{
	return CACHELINEALIGN((bucket_mask + 1) * sizeof(uint32));
}

static Size
tails_offset(void)
{
	return slots_offset() + max_workers * sizeof(Slot);
}

static Size
chained_size(void)
{
	return tails_offset() + max_workers * sizeof(Tail);
}

static void
request(void)
{
	if (next_request_hook)
		next_request_hook();
	bucket_mask = pg_nextpower2_32(Max(max_workers, PARTITIONS)) - 1;
	RequestAddinShmemSpace(2 * hash_estimate_size(max_workers, sizeof(Entry)));
	RequestAddinShmemSpace(chained_size());
	RequestNamedLWLockTranche(TRANCHE, 3 * PARTITIONS);
}

static Table
make_table(const char *name, LWLockPadded *locks, HASHCTL *control, int flags)
{
	Table		table = {.locks = locks};

	control->keysize = sizeof(Key);
	control->entrysize = sizeof(Entry);
	control->num_partitions = PARTITIONS;
	flags |= HASH_ELEM | HASH_PARTITION | HASH_FIXED_SIZE;
	table.entries = ShmemInitHash(name, max_workers, max_workers, control, flags);
	return table;
}

static Chained
make_chained(LWLockPadded *locks)
{
	bool		found;
	char	   *block = ShmemInitStruct("chained", chained_size(), &found);
	Chained		table = {.locks = locks};

	if (!found)
		memset(block, 0, chained_size());
	table.buckets = (uint32 *) block;
	table.slots = (Slot *) (block + slots_offset());
	table.tails = (Tail *) (block + tails_offset());
	return table;
}

/* In the postmaster: what is set here, all processes inherit. */
static void
startup(void)
{
	LWLockPadded *locks = GetNamedLWLockTranche(TRANCHE);
	HASHCTL		as_offered = {0};
	HASHCTL		with_own_hash = {.hash = seeded_hash, .match = seeded_compare};

	if (next_startup_hook)
		next_startup_hook();
	if (!pg_strong_random(&seed, sizeof(seed)))
		elog(ERROR, "no random number");
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	blobs = make_table("dynahash_blobs", locks, &as_offered, HASH_BLOBS);
	seeded = make_table("dynahash_seeded", locks + PARTITIONS, &with_own_hash, HASH_FUNCTION | HASH_COMPARE);
	chained = make_chained(locks + 2 * PARTITIONS);
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	DefineCustomIntVariable("dynahash.max_workers", "Workers that fit in each table.", NULL, &max_workers,
							1024, 1, INT_MAX / 2, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	next_request_hook = shmem_request_hook;
	shmem_request_hook = request;
	next_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
}

static Key
key_of(const char *id, Size length)
{
	Key			key = {.database = MyDatabaseId};

	if (length > ID_LENGTH)
		elog(ERROR, "the id is too long");
	memcpy(key.id, id, length);
	return key;
}

static inline LWLock *
lock_of(LWLockPadded *locks, uint64 hash)
{
	return &locks[hash % PARTITIONS].lock;
}

static uint64
hash_hostname(const text *hostname)
{
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(hostname), VARSIZE_ANY_EXHDR(hostname), seed);
}

/* What one heartbeat brings. */
typedef struct Beat
{
	Key			key;
	bool		has_hostname;
	uint64		hostname;
	TimestampTz now;
} Beat;

static inline Beat
beat_of(PG_FUNCTION_ARGS)
{
	Beat		beat = {.has_hostname = !PG_ARGISNULL(1)};
	text	   *id;

	/* As the extension, which refuses heartbeats on a standby. */
	PreventCommandIfReadOnly("dynahash_heartbeat()");
	if (PG_ARGISNULL(0))
		elog(ERROR, "no worker");
	id = PG_GETARG_TEXT_PP(0);
	beat.key = key_of(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
	if (beat.has_hostname)
		beat.hostname = hash_hostname(PG_GETARG_TEXT_PP(1));
	beat.now = GetCurrentTimestamp();
	return beat;
}

static inline Datum
answer(int64 incarnation)
{
	if (incarnation == 0)
		elog(ERROR, "no such worker on that host");
	PG_RETURN_INT64(incarnation);
}

/* Stores the time of a heartbeat; the worker's incarnation, or zero when it is not there or names another host. */
static inline int64
store(const Table *table, const Beat *beat)
{
	uint32		hash = get_hash_value(table->entries, &beat->key);
	LWLock	   *lock = lock_of(table->locks, hash);
	int64		incarnation = 0;
	Entry	   *entry;

	LWLockAcquire(lock, LW_SHARED);
	entry = hash_search_with_hash_value(table->entries, &beat->key, hash, HASH_FIND, NULL);
	if (entry && (!beat->has_hostname || entry->hostname == beat->hostname))
	{
		incarnation = entry->incarnation;
		pg_atomic_write_u64(&entry->beat_at, beat->now);
	}
	LWLockRelease(lock);
	return incarnation;
}

/* Looks at no more of a slot than tells. */
static inline bool
is_slot_of(const Chained *table, uint32 number, const Key *key, uint64 hash)
{
	const Slot *slot = &table->slots[number - 1];
	Size		length;

	if (slot->hash != hash || slot->database != key->database || memcmp(slot->head, key->id, HEAD_LENGTH) != 0)
		return false;
	length = significant_words(key) * sizeof(uint64);
	return length <= HEAD_LENGTH ||
		memcmp(table->tails[number - 1].rest, key->id + HEAD_LENGTH, length - HEAD_LENGTH) == 0;
}

/* The slot of a key, or NULL. Partition locked. */
static inline Slot *
find_chained(const Chained *table, const Key *key, uint64 hash)
{
	uint32		number = table->buckets[hash & bucket_mask];

	while (number != 0 && !is_slot_of(table, number, key, hash))
		number = table->slots[number - 1].next;
	return number == 0 ? NULL : &table->slots[number - 1];
}

/* As store(). */
static inline int64
store_chained(const Chained *table, const Beat *beat)
{
	uint64		hash = hash_key(&beat->key);
	LWLock	   *lock = lock_of(table->locks, hash);
	int64		incarnation = 0;
	Slot	   *slot;

	LWLockAcquire(lock, LW_SHARED);
	slot = find_chained(table, &beat->key, hash);
	if (slot && (!beat->has_hostname || slot->hostname == beat->hostname))
	{
		incarnation = slot->incarnation;
		pg_atomic_write_u64(&slot->beat_at, beat->now);
	}
	LWLockRelease(lock);
	return incarnation;
}

/* dynahash_heartbeat(worker_id text, hostname text) returns bigint */
Datum
dynahash_heartbeat(PG_FUNCTION_ARGS)
{
	Beat		beat = beat_of(fcinfo);

	return answer(store(&blobs, &beat));
}

/* The same over the table with a hash of its own. */
Datum
dynahash_seeded_heartbeat(PG_FUNCTION_ARGS)
{
	Beat		beat = beat_of(fcinfo);

	return answer(store(&seeded, &beat));
}

/* The same over the table that is laid out as the extension's. */
Datum
chained_heartbeat(PG_FUNCTION_ARGS)
{
	Beat		beat = beat_of(fcinfo);

	return answer(store_chained(&chained, &beat));
}

static void
add(const Table *table, const Key *key, uint64 hostname)
{
	uint32		hash = get_hash_value(table->entries, key);
	LWLock	   *lock = lock_of(table->locks, hash);
	Entry	   *entry;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	/* Raises an error, which releases the lock, when the table is full. */
	entry = hash_search_with_hash_value(table->entries, key, hash, HASH_ENTER, NULL);
	pg_atomic_init_u64(&entry->beat_at, 0);
	entry->written = 0;
	entry->incarnation = 1;
	entry->hostname = hostname;
	LWLockRelease(lock);
}

/* The slots are used one after the other. */
static void
add_chained(const Chained *table, const Key *key, uint64 hostname, uint32 number)
{
	uint64		hash = hash_key(key);
	LWLock	   *lock = lock_of(table->locks, hash);
	Slot	   *slot = &table->slots[number - 1];
	uint32	   *bucket = &table->buckets[hash & bucket_mask];

	if (number > max_workers)
		elog(ERROR, "the table is full");
	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot->hash = hash;
	slot->database = key->database;
	slot->incarnation = 1;
	slot->hostname = hostname;
	memcpy(slot->head, key->id, HEAD_LENGTH);
	memcpy(table->tails[number - 1].rest, key->id + HEAD_LENGTH, ID_LENGTH - HEAD_LENGTH);
	slot->next = *bucket;
	*bucket = number;
	LWLockRelease(lock);
}

/*
 * dynahash_fill(first bigint, workers int, hostname text): makes workers known to all tables. Their ids are numbers,
 * counted up from the first.
 */
Datum
dynahash_fill(PG_FUNCTION_ARGS)
{
	int64		first = PG_GETARG_INT64(0);
	uint64		hostname = hash_hostname(PG_GETARG_TEXT_PP(2));

	for (int number = 0; number < PG_GETARG_INT32(1); number++)
	{
		char		digits[ID_LENGTH];
		Key			key = key_of(digits, snprintf(digits, sizeof(digits), INT64_FORMAT, first + number));

		add(&blobs, &key, hostname);
		add(&seeded, &key, hostname);
		add_chained(&chained, &key, hostname, number + 1);
	}
	PG_RETURN_VOID();
}

static TimestampTz
beat_at(const Table *table, const Key *key)
{
	uint32		hash = get_hash_value(table->entries, key);
	LWLock	   *lock = lock_of(table->locks, hash);
	TimestampTz found = DT_NOBEGIN;
	Entry	   *entry;

	LWLockAcquire(lock, LW_SHARED);
	entry = hash_search_with_hash_value(table->entries, key, hash, HASH_FIND, NULL);
	if (entry)
		found = pg_atomic_read_u64(&entry->beat_at);
	LWLockRelease(lock);
	return found;
}

static TimestampTz
beat_at_chained(const Chained *table, const Key *key)
{
	uint64		hash = hash_key(key);
	LWLock	   *lock = lock_of(table->locks, hash);
	Slot	   *slot;
	TimestampTz found;

	LWLockAcquire(lock, LW_SHARED);
	slot = find_chained(table, key, hash);
	found = slot ? (TimestampTz) pg_atomic_read_u64(&slot->beat_at) : DT_NOBEGIN;
	LWLockRelease(lock);
	return found;
}

/* dynahash_beat_at(worker_id text) returns timestamptz: the oldest of the times in the tables. */
Datum
dynahash_beat_at(PG_FUNCTION_ARGS)
{
	text	   *id = PG_GETARG_TEXT_PP(0);
	Key			key = key_of(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
	TimestampTz of_dynahash = Min(beat_at(&blobs, &key), beat_at(&seeded, &key));

	PG_RETURN_TIMESTAMPTZ(Min(of_dynahash, beat_at_chained(&chained, &key)));
}

/* dynahash_size(workers int) returns bigint: the shared memory that dynahash takes for so many. */
Datum
dynahash_size(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(hash_estimate_size(PG_GETARG_INT32(0), sizeof(Entry)));
}
