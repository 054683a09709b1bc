/**
 * All times are in milliseconds.
 */
export type Options = {
    /**
     * a URL, which may name several servers, or what pg takes,
     * where `host` may be a list; the one that can be written to is used. By default the PG* environment variables.
     * Functions cannot be passed on to the thread, such as one for the password.
     */
    connection?: string | import("pg").ClientConfig | undefined;
    /**
     * without one the database makes one up
     */
    workerId?: string | undefined;
    /**
     * for operators
     */
    hostname?: string | undefined;
    /**
     * false, if the id is that of a queue's library, which may have claimed jobs under it
     * already: to register would give these jobs back
     */
    register?: boolean | undefined;
    /**
     * whether stop() deregisters the worker. By default who has registered it does. Who
     * has not may be told to, if the library has stopped by then: what still runs under the id is settled
     */
    deregister?: boolean | undefined;
    /**
     * whether to tie the worker to the connection, so that its death is seen at once. Where
     * the server cannot do that, and behind a pooler, silence is what counts
     */
    attach?: boolean | undefined;
    /**
     * whether the end of the process stops the heartbeat, too, and waits for that as stop()
     * does. SIGTERM then ends the process, unless the program handles it itself
     */
    atExit?: boolean | undefined;
    /**
     * between heartbeats; a third of rgrid_heartbeat.stale_threshold at most. 30 s
     */
    interval?: number | undefined;
    /**
     * for a call and for connecting; longer than rgrid_heartbeat.call_timeout. 10 s
     */
    deadline?: number | undefined;
};
import { CallFailed } from "./session.js";
/**
 * Of one worker, from start() to stop().
 *
 * Emits `givenUp` with the new incarnation when the worker had been declared dead, and so its jobs were settled;
 * `trouble` with a text when a call has failed, which is tried again.
 */
export class Heartbeat extends EventEmitter<[never]> {
    /** @param {Options} [options] */
    constructor(options?: Options);
    /** @private */
    private _options;
    /** Known when start() has resolved. @type {string | undefined} */
    workerId: string | undefined;
    /** Why the last call failed; undefined if it was answered. @type {string | undefined} */
    trouble: string | undefined;
    /** @private */
    private _cells;
    /** The incarnation that the program has been told of. @private */
    private _told;
    /** @private */
    private _finishing;
    /** @private @type {Worker | undefined} */
    private _thread;
    /** @private */
    private _onExit;
    /**
     * Another number than before means that the worker had been declared dead: jobs that were claimed until then are not
     * its own any more. 0 before start() has resolved.
     */
    get incarnation(): number;
    /**
     * Whether a job may be claimed now: the database has answered since the last trouble, and not long ago. A job that is
     * claimed by a worker that was declared dead, and does not know, is lost with its next heartbeat.
     */
    get mayClaim(): boolean;
    /**
     * Resolves when the database has heard of the worker; rejects with CallFailed if it refuses.
     * @returns {Promise<this>}
     */
    start(): Promise<this>;
    /** @private @param {any} message */
    private _note;
    /** However it has come about. @private */
    private _noteEnd;
    /**
     * Stops beating, and deregisters if that is to be done. Comes after the last job. Waits for two deadlines for each
     * server at most.
     */
    stop(): Promise<void>;
    /** Nothing of the program runs any more, and the thread still does. @private */
    private _stopAtExit;
}
import { EventEmitter } from "events";
export { CallFailed };
