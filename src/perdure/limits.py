"""Every bound in Perdure, with its reason. A limit that is not here does not exist.

Sizes are bytes, durations are microseconds (see :mod:`perdure.clock`), unless the name says otherwise.
"""

from __future__ import annotations

from typing import Final

from perdure.clock import DAY, HOUR, MILLISECOND, MINUTE, SECOND

# --- What a user may send -------------------------------------------------------------------------------
MAX_PAYLOAD: Final = 2 * 1024 * 1024
"""One encoded argument, result, signal or heartbeat detail. A journal is read back whole when a workflow is
rebuilt, so what is in it must stay small; larger things belong in a file or an object store."""

MAX_MESSAGE: Final = 8 * 1024 * 1024
"""All payloads of one request together: what one commit should carry for one execution."""

MAX_BLOB: Final = 64 * 1024 * 1024
"""One encoded value where codecs make it smaller or put it elsewhere, before they do. It is in memory several times at
once."""

OFFLOAD_MINIMUM: Final = 128 * 1024
"""From here on a payload is put elsewhere, where that is asked for: about what a whole history has otherwise."""

BLOB_CACHE: Final = 64 * 1024 * 1024
"""Bytes of large payloads that a process keeps in memory, so that a replay doesn't read them again."""

BLOBS_REMEMBERED: Final = 10_000
"""Blobs that a process knows to be stored, and doesn't send again."""

MAX_CODED: Final = 16
"""How often a payload may be encoded by codecs, one after another: what is encoded endlessly is an attack."""

CODEC_ON_LOOP: Final = 64 * 1024
"""Bytes of a message's payloads up to which codecs run on the event loop: some tenths of a millisecond, while a thread
costs half as much. Larger ones are encoded and decoded in a thread."""

MAX_ID_LENGTH: Final = 1_000
"""Characters of a workflow id, type, queue, signal, query or update name: they stand in database keys."""

MAX_PRIORITY: Final = 1_000_000
"""Distance of an activity's priority from 0: room enough, and far from what a database column holds."""

MAX_ATTEMPTS: Final = 1_000_000_000
"""Attempts that a retry policy may name: more are as good as without end, which is 0."""

MAX_REASON_LENGTH: Final = 4_000
"""Characters of a note or a reason that a person gives."""

MAX_FAILURE_MESSAGE: Final = 16 * 1024
"""Characters of an exception's message kept in the journal; longer ones are cut in the middle."""

MAX_TRACEBACK: Final = 32 * 1024
"""Characters of a traceback kept in the journal; longer ones are cut in the middle."""

MAX_FAILURE_CAUSES: Final = 16
"""Causes of a failure that are kept: a chain of exceptions may be circular or endless."""

MAX_DURATION: Final = 100 * 365 * DAY
"""The longest timer or timeout: far beyond it, a unit was probably mistaken."""

# --- One execution --------------------------------------------------------------------------------------
SUGGEST_CONTINUE_AS_NEW_EVENTS: Final = 10_000
SUGGEST_CONTINUE_AS_NEW_BYTES: Final = 10 * 1024 * 1024
"""From here on `workflow.info().continue_as_new_suggested`: replay begins to take noticeable time."""

MAX_HISTORY_EVENTS: Final = 200_000
MAX_HISTORY_BYTES: Final = 200 * 1024 * 1024
"""A run that reaches this is held, never terminated: a rebuild would take minutes and memory."""

RELEASED_EVENTS: Final = MAX_HISTORY_EVENTS // 10
RELEASED_BYTES: Final = MAX_HISTORY_BYTES // 10
"""How much more history a run that is held may write when a person lets it go on: enough to end or to continue as new,
and too little to forget about it."""

MAX_PENDING_ACTIVITIES: Final = 50_000
"""Activities scheduled and unresolved in one run: each costs memory while the run is loaded."""

MAX_PENDING_TIMERS: Final = 50_000
"""Timers running in one run, for the same reason."""

MAX_PENDING_CHILDREN: Final = 10_000
"""Children unresolved in one run, with those that earlier ones have left to it; for the same reason."""

MAX_PENDING_MESSAGES: Final = 10_000
"""Signals and requests to other workflows on their way from one run, for the same reason."""

MAX_BUFFERED_INPUTS: Final = 20_000
"""Messages that wait for the open workflow task of one run. Beyond it senders are asked to try again."""

MAX_PENDING_UPDATES: Final = 1_000
"""Updates admitted and not yet completed in one run: each has a caller who waits."""

SHOWN_ACTIVITIES: Final = 1_000
SHOWN_TIMERS: Final = 1_000
"""Pending activities and timers that a description of a run shows, the most interesting ones: nobody reads more,
and a reply must stay small."""

MAX_REMEMBERED_UPDATES: Final = 1_000
"""Answers of updates that a run leaves to the next of its chain, so that a repeated request gets the same one: those of
the last moments, since a client repeats a request only while it has no answer."""

MAX_INTERVENTIONS: Final = 100
"""What persons did about one run and its activities (released, completed, failed, paused, reset, …) that is kept to be
shown. All of it stands in the journal until a snapshot covers it."""

MAX_COMMANDS: Final = 60_000
"""Commands in one workflow task's completion: they are decided and stored as one transition."""

CLOSE_REFUSALS: Final = 3
"""How often a close with unseen input is refused before no more messages are admitted until it commits:
otherwise a steady sender could keep a run open for ever."""

SNAPSHOT_MINIMUM: Final = 4 * 1024
"""Journal bytes since the last snapshot below which none is written: reading them back is cheaper."""

# --- Retries and liveness -------------------------------------------------------------------------------
DEFAULT_INITIAL_INTERVAL: Final = 1 * SECOND
DEFAULT_MAXIMUM_INTERVAL_FACTOR: Final = 100
"""A retry policy without a maximum interval never waits longer than this many initial intervals."""

RETRY_JITTER: Final = 0.2
"""A backoff is shortened by up to this share, so that what failed together does not return together."""

WORKFLOW_TASK_RETRY_INITIAL: Final = 1 * SECOND
WORKFLOW_TASK_RETRY_MAXIMUM: Final = 1 * MINUTE
"""Backoff of a workflow task that fails by a bug: soon enough to notice a mended deploy, seldom enough to
cost nothing meanwhile."""

WORKFLOW_TASK_TIMEOUT: Final = 10 * SECOND
"""A workflow task that its worker does not answer within this is given to another, as soon as there is one."""

MAX_WORKFLOW_TASK_TIMEOUT: Final = 2 * MINUTE
"""The longest that a start may give workers instead: a task answers in milliseconds, and while nobody knows that its
worker hangs, the workflow stands still."""

LOCAL_ACTIVITY_TIMEOUT: Final = 1 * MINUTE
"""How long one attempt of a local activity may take, at most and unless it is told less: what takes longer is worth a
place in a task queue."""

LOCAL_ACTIVITY_BACKOFF: Final = 2 * SECOND
"""A local activity that is tried again after at most this waits in its worker. After a longer time, which is a timer of
the workflow, its task is over meanwhile."""

LOCAL_ACTIVITY_REPORT: Final = 0.7
"""After this share of its timeout, a workflow task that local activities hold open reports what they have come to, and
goes on as the next one: well before another worker would get it."""

HEARTBEAT_JOURNAL_INTERVAL: Final = 5 * SECOND
"""New details of heartbeats are journaled at most this often: so much progress may be lost with a process. That
an attempt is alive, is journaled after half of its timeout, if that is longer."""

# --- Deduplication, outbox, retention -------------------------------------------------------------------
DEDUP_LIFETIME: Final = 7 * DAY
"""How long a request id is remembered. Clients give up after an hour and the outbox after six days, so
nothing can arrive for a second time after it was forgotten."""

CLIENT_RETRY_LIFETIME: Final = 1 * HOUR
CLIENT_RETRY_INITIAL: Final = 50 * MILLISECOND
CLIENT_RETRY_MAXIMUM: Final = 5 * SECOND
"""A client that finds no engine asks again after this: soon enough not to be noticed after a short outage, seldom
enough not to be part of a long one."""

OUTBOX_RETRY_LIFETIME: Final = 6 * DAY
OUTBOX_RETRY_INITIAL: Final = 1 * SECOND
OUTBOX_RETRY_MAXIMUM: Final = 5 * MINUTE
"""What a run sends to others is sent again after this, less and less often, since whoever serves them may be away for
long. After the lifetime it is given up, visibly: later its request id might not be known any more."""

# --- Schedules ------------------------------------------------------------------------------------------
DEFAULT_CATCHUP_WINDOW: Final = 365 * DAY
"""How long ago a time may be that could not be kept and is still made up for, as in Temporal: nothing is lost by an
outage unless somebody says so, and by default ("skip") an outage of any length leads to one start."""

MINIMUM_CATCHUP_WINDOW: Final = 10 * SECOND
"""The shortest that may be asked for: a restart takes some seconds, and is no reason to miss a time."""

MINIMUM_INTERVAL: Final = 1 * SECOND
"""The shortest interval: what is due more often is the work of a workflow, not of starts."""

SCHEDULE_PARTS: Final = 100
"""Cron expressions, calendars, intervals and exclusions of one schedule together: each is searched for every time."""

MAX_CALENDAR_TEXT: Final = 500
"""Characters of a cron expression, or of one field of a calendar: longer ones are mistakes."""

SCHEDULE_HORIZON_YEARS: Final = 100
"""A calendar that has no date within so many years never has one that anybody waits for. A 29 February that is a Monday
comes within 40."""

SKIPPED_IN_A_ROW: Final = 10_000
"""Excluded times that one search passes over; days, hours and minutes that are excluded as a whole count once. A
schedule that finds none beyond is over."""

SCHEDULE_BATCH: Final = 500
"""Times that one transition of a schedule looks at, when many are due at once: some milliseconds. The others follow in
the next transition."""

SCHEDULE_STARTS: Final = 100
"""Starts of a schedule that are on their way at once. Others wait: what is due at once must not fill the memory."""

MAX_SCHEDULE_BUFFER: Final = 1_000
"""Starts of a schedule that wait for what runs. Further ones are skipped, and counted; a backfill waits instead."""

MAX_SCHEDULED_RUNS: Final = 10_000
"""Workflows of one schedule that run at once (overlap "allow_all"): they are part of its state. Further starts are
skipped, and counted."""

MAX_BACKFILLS: Final = 100
"""Backfills of one schedule that are under way at once."""

MAX_BACKFILL_TIMES: Final = 100_000
"""Times that one backfill may take: each second of a day, two months of minutes, eleven years of hours. Each is a
workflow, so what is meant to be more is asked for in parts, while one looks on."""

MAX_SCHEDULE_RESETS: Final = 10_000
"""Resets of ended workflows that a schedule remembers: far more than are on their way to it at once."""

RECENT_ACTIONS: Final = 10
"""Starts that have ended and that a schedule remembers, to be shown. All of them can be listed as workflows."""

SHOWN_TIMES: Final = 10
"""Next times that a description of a schedule shows."""

UPDATE_TRIES: Final = 10
"""How often a client reads and changes a schedule again that somebody else has changed meanwhile."""

SCHEDULE_ROLL_OVER: Final = 1_000
"""Records after which a schedule goes on in another run of its chain, and the last one is deleted: so its journal stays
short, though it lives for years."""

RESET_TRIES: Final = 10
"""How often a run is looked at that is to be reset, and has moved on meanwhile. One that is never still is to be paused
first."""

MAX_RESET_BYTES: Final = 32 * 1024 * 1024
"""What a reset may write: the history that it keeps, and the messages that it gives again, are one row of the journal.
A run that continues as new when it is suggested is far below."""

DEFAULT_RETENTION: Final = 30 * DAY
"""How long a closed run can still be read."""

# --- The node -------------------------------------------------------------------------------------------
SHARDS: Final = 1024
"""Parts that executions are spread over. Fixed for the life of a store: it is part of every key."""

MAX_GROUP: Final = 1_000
"""Executions in one commit, and in one turn: bounds how long others wait for it."""

SPECULATION_WAIT: Final = 5 * MILLISECOND
"""How long an input waits for its workflow task to be answered, so that both go into one commit."""

COLLECTOR_REST: Final = 250 * MILLISECOND
"""How long the garbage collector rests at most while the engine is busy: cycles of the program's own wait for it. Each
collection takes about a millisecond then."""

COLLECTOR_RESTS_ABOVE: Final = 16
"""Transitions on their way to the disk with which it also rests between turns: with fewer there is little to see."""

MAX_UNCOMMITTED: Final = 20_000
"""Transitions in memory that are not on disk yet. While the store is down no more are taken; callers get
a retryable 'unavailable'."""

MAX_CACHED_EXECUTIONS: Final = 1_000
"""Idle executions that a node keeps in memory. The next input of any other costs one read."""

DEFAULT_CACHED_WORKFLOWS: Final = 1_000
"""Suspended workflows that a worker keeps alive, unless `max_cached_workflows` says otherwise: some 20 KiB each. The
next task of any other costs a replay, so where more are at work at once, each step takes several times as long."""

MAX_CACHED_WORKFLOWS: Final = 100_000
"""The most that a worker may be told to keep: some 2 GiB."""

DUE_SCAN_LIMIT: Final = 500
"""Due executions that are woken at once; the next ones are read when these are served. A flood of due timers
must not fill the memory."""

LONGEST_NAP: Final = 1 * MINUTE
"""Looks at the clock at least this often: a machine that was suspended, or whose clock was set, is noticed."""

WAKE_BACKOFF_INITIAL: Final = 1 * SECOND
WAKE_BACKOFF_MAXIMUM: Final = 5 * MINUTE
"""A wake-up that raises is tried again after this; the other executions are not disturbed."""

SLOW_COMMIT: Final = 1 * SECOND
"""A commit that takes longer counts as an interval in which the node could not work."""

STALLS_KEPT: Final = 16
"""Intervals in which the node could not work that are remembered: enough for the longest timeouts that were
running meanwhile, and few enough to look through for each deadline."""

FORGET_INTERVAL: Final = 1 * HOUR
FORGET_AT_ONCE: Final = 1_000
"""Expired request ids are deleted this often, and so many in one transaction: it delays the commits."""

BLOB_GRACE: Final = 1 * DAY
BLOB_PUT_AGAIN: Final = 1 * HOUR
"""A blob that no run names is kept for the first of these after it was last put: what names it may still be on its way.
Who puts it again within the second need not send it, so that it is always kept for most of a day from then on."""

FORGET_BLOBS_AT_ONCE: Final = 100
"""Blobs that are deleted in one transaction: they may be large."""

STOP_WAIT: Final = 10 * SECOND
"""How long a stop waits for a store that takes no commits: a third of what process managers allow before they kill.
What is given up then was never acknowledged."""

MEMBER_REMEMBERED: Final = 1 * HOUR
"""How long a node that is gone keeps its row: long enough for a person who looks what was there."""

MISSED_QUEUES: Final = 10_000
"""Task queues, each for a type, that have no worker, and of which is remembered that a warning has said so: some 200
bytes each. One that is forgotten is warned of once more."""

BACKLOG_PAGE: Final = 1_000
"""Head of a task queue's backlog that is kept in memory; the rest waits in the store."""

HISTORY_PAGE_BYTES: Final = 1024 * 1024
"""Journal bytes read at once when a history is paged."""

LIST_PAGE: Final = 1_000
"""Executions listed at once."""

STORE_RETRY_INITIAL: Final = 50 * MILLISECOND
STORE_RETRY_MAXIMUM: Final = 1 * SECOND
"""Backoff of a commit or a read that the store could not take. A store that is back is not kept waiting for longer."""

STORE_FULL_WAIT: Final = 1 * SECOND
"""How long a store without space is tried again before callers hear of it. Long enough for a checkpoint, which makes
room in the log; a person who is to make room otherwise takes longer."""

# --- Several nodes over one store -----------------------------------------------------------------------
NODE_GRACE: Final = 10 * SECOND
"""How long a node that says nothing counts as alive. Longer than most pauses of a healthy process; when it is over,
what the node's workers ran is begun again."""

OPENINGS_TOLD_APART: Final = 1024
"""Openings of a store, by several nodes or one after the other, that may add to a backlog in the same microsecond, each
at a place of its own. Microseconds times this fit into 64 bits until the year 2255."""

RENEWALS_A_GRACE: Final = 4
"""How often a node says that it is alive within the grace: one or two may be late or lost."""

POLL_INTERVAL: Final = 1 * SECOND
"""A node looks for what is due and for backlogs at least this often, whatever it was told. Notices may be lost."""

OVERDUE: Final = 1_500 * MILLISECOND
"""A run that has been due for this long is taken over by the node in whose shards it is: its home is dead, stalled or
busy."""

ABANDONED: Final = 2 * OVERDUE
"""One that has been due for this long, by any: that node is, too, or is the home itself."""

WATCH_INTERVAL: Final = 2 * SECOND
"""Whoever waits for a run that another node serves looks at it at least this often."""

QUERY_ELSEWHERE: Final = 10 * SECOND
"""How long a query waits for another node to answer it, where the one that was asked has not the code. One that has it
looks every second, and answers in milliseconds, unless it must replay a long history; one that dies is followed by
another."""

ANSWER_LEASE: Final = 3 * SECOND
"""How long a query is one node's to answer, until another that has the code may try, too. Asking twice does no harm."""

CLAIM_LEASE: Final = 10 * SECOND
"""How long a task is one node's that it has claimed from a backlog: far longer than it takes to start it. A node gives
back what it can't start; this is for claims that it can't know of, carried out by the store after their connection was
lost. Where it is too short, two nodes start the task, and the store refuses one of them."""

# --- The SQLite store -----------------------------------------------------------------------------------
CHECKED_SIZE: Final = 16 * 1024 * 1024
"""A file up to this size is checked whole when it is opened: a few hundredths of a second. In a larger one,
damage is found where it is read."""

CACHE_KIB: Final = 4 * 1024
"""KiB of pages that the writer keeps in memory: the tables' ends and the upper levels of their trees."""

WARM_RUNS: Final = 4_000
"""Open runs whose number and version a store in a file remembers, so that it doesn't read them before each write: more
than are worked on at once, and some hundred bytes each."""

CHECKPOINT_PAGES: Final = 1_000
"""Pages in the log (4 MiB) from which they are copied into the file: enough to copy a page once that changed
often, and few enough to be done in some milliseconds."""

ROWS_A_STATEMENT: Final = 128
"""Rows in one statement: SQLite takes 32,766 parameters, and longer statements gain little."""

MAX_QUERY_LENGTH: Final = 10_000
"""Characters of a list filter: longer ones are mistakes, and parsing takes time for each."""

EARLIEST_TIME: Final = 100_000_000 * SECOND
"""A time in a list filter that is given as a number must be later, which is in 1973: what is less was meant in seconds
or in milliseconds, or as a year."""

# --- The PostgreSQL store -------------------------------------------------------------------------------
POSTGRES_READERS: Final = 3
"""Connections for reading: each costs the server a process, and reads are short. Listings may not be, and leave one."""

POSTGRES_CONNECT_TIMEOUT: Final = 5 * SECOND
"""How long one host is given to take a connection: then it is the next one's turn."""

POSTGRES_STATEMENT_TIMEOUT: Final = 20 * SECOND
"""How long one statement may take: a listing without an index over millions of runs takes some seconds."""

POSTGRES_LOCK_TIMEOUT: Final = 2 * SECOND
"""How long a statement waits for a lock: commits of other nodes hold theirs for milliseconds."""

POSTGRES_SILENCE: Final = 10 * SECOND
"""After this without a sign of life the other end of a connection is taken for gone."""

POSTGRES_IDLE_TIMEOUT: Final = 1 * MINUTE
"""A connection that was not used for longer is made anew: what lies between may have forgotten it."""

POSTGRES_HISTORY_ROWS: Final = 1_000
"""Journal rows of a history that are read at once, where their bytes don't bound them first."""

POSTGRES_RETRIES: Final = 8
"""How often a group is halved and tried again when other transactions are in its way."""

RUN_NUMBERS: Final = 10_000
"""Numbers for new runs that a node takes at once, so that a commit needs none from the server. Fixed for the life of a
store: its sequence counts in steps of so many."""

CACHED_KEYS: Final = 10_000
"""Digests of ids that are remembered: making one costs a microsecond, in every write."""

# --- The worker -----------------------------------------------------------------------------------------
DEFAULT_CONCURRENT_ACTIVITIES: Final = 100
"""Activities that one worker runs at once unless it is told otherwise."""

MAX_CONCURRENT_ACTIVITIES: Final = 1_000_000
"""The most that it may be told: a process has no memory for more."""

HEARTBEAT_INTERVAL_MINIMUM: Final = 50 * MILLISECOND
"""Heartbeats are sent at most this often, however short their timeout is: each is a message."""

EVICTION_THROWS: Final = 100
"""How often a task of workflow code may answer its eviction by waiting for something else. Then it is left behind."""

EVICTION_REFUSALS: Final = 1_000
"""How often workflow code may ask for something while it is taken out of memory, and be refused. A loop that asks
again and again would never end; so then it gets what it wants, and waits."""

SHUTDOWN_GRACE: Final = 5.0
"""Seconds that attempts are given to end once they were cancelled because the worker stops."""

PROCESS_GRACE: Final = 4 * SECOND
"""What a program that an activity runs is given between SIGTERM and SIGKILL, unless it is told otherwise. Less than
SHUTDOWN_GRACE, so that it has ended before its worker has."""

PROCESS_OUTPUT: Final = 1024 * 1024
"""Bytes kept of each output of a program: its end, mostly all. More belongs in a file."""

PROCESS_ERROR_OUTPUT: Final = 4 * 1024
"""Characters of the output in the error of a program that failed: for people, and it stands in the journal."""

PROCESS_LINE: Final = 8 * 1024
"""Bytes of a program's line from which on it is logged in pieces: progress bars never end theirs."""

PROCESS_POLL: Final = 50 * MILLISECOND
"""How often it is looked whether a program is still wanted: soon for people, and seldom enough to cost nothing."""

MAX_THREADS: Final = 1_000
"""Threads of one worker for plain `def` activities, however many slots it has: each has a stack, and systems allow some
thousands. More attempts wait for one, and their timeouts run meanwhile."""

MAX_ACTIVITY_PROCESSES: Final = 1_000
"""The most processes for CPU-bound activities that a worker may be told: more than any machine has cores for."""

PROCESS_LAST_WORDS: Final = 1 * SECOND
"""How long a process of the pool that has closed its end is given to end, before it is ended: then it is known why."""

BLOCKED_LOOP_WARNING: Final = 1 * SECOND
"""A loop that was blocked for longer than this is named in a warning."""

BLOCKED_WORKFLOW: Final = 2 * SECOND
"""Workflow code that has not come to its next `await` for this long is taken for stuck: it is interrupted, and its
task fails. Meanwhile nothing else runs on its loop. Code that computes this long belongs in an activity."""

RESTLESS_WORKFLOW: Final = 10 * SECOND
"""The same for code that goes from one `await` to the next without ever waiting, as `while True: await sleep(0)`."""
