/** A call that got no good answer. */
export class CallFailed extends Error {
    /**
     * @param {string} message
     * @param {string} [sqlstate] undefined when no server has said anything
     * @param {boolean} [late] a server was reached, or seemed to be, and did not answer in time
     */
    constructor(message: string, sqlstate?: string, late?: boolean);
    sqlstate: string | undefined;
    late: boolean;
    /** Whether another attempt cannot succeed before somebody mends the call, the grants or the database. */
    get final(): boolean;
}
export class Session {
    /** @param {import('pg').ClientConfig} config @param {() => void} onGone called when the connection ends unasked */
    constructor(config: import("pg").ClientConfig, onGone: () => void);
    client: Client;
    began: number;
    /** @type {Error | undefined} */
    gone: Error | undefined;
    /** @param {number} ms */
    connect(ms: number): Promise<void>;
    /**
     * The first row of what a statement answers within so many milliseconds, as an array.
     * @param {string} text @param {(string | undefined)[]} values @param {number} ms @returns {Promise<any[]>}
     */
    call(text: string, values: (string | undefined)[], ms: number): Promise<any[]>;
    /** @template T @param {Promise<T>} promise @param {number} ms @returns {Promise<T>} */
    inTime<T>(promise: Promise<T>, ms: number): Promise<T>;
    /** Says goodbye, if the server is there to hear it. */
    close(): Promise<void>;
    destroy(): void;
}
/**
 * A configuration for each server of one, as libpq splits it: pg knows no lists.
 * @param {string | import('pg').ClientConfig} connection
 * @returns {import('pg').ClientConfig[]}
 */
export function splitHosts(connection: string | import("pg").ClientConfig): import("pg").ClientConfig[];
import { Client } from "pg";
