//! The clients of `clients/`, each as a process of its own, on servers that are killed, frozen and promoted. What they
//! promise is the same for all and is in `claims` and `endings`; each other module is one of them.

mod asyncio;
mod claims;
mod endings;
mod node;
mod program;
mod threads;

/// One test for each of the claims, about one client.
macro_rules! about {
    ($client:expr, $room:ident; $($claim:ident)*) => {
        $(#[test]
        fn $claim() {
            crate::clients::$room::$claim($client);
        })*
    };
    ($client:expr) => {
        crate::clients::about!($client, claims;
            a_worker_registers_beats_and_deregisters
            a_library_s_worker_only_beats_and_keeps_its_jobs
            a_blocked_program_goes_on_beating
            a_cut_is_noticed_at_once
            a_killed_server_is_found_again
            a_frozen_server_is_given_up_for_another
            a_failover_is_followed
            a_pooler_in_transaction_mode_mixes_up_nothing
            a_worker_that_was_given_up_is_told
            a_frozen_worker_claims_nothing_before_it_knows
            a_killed_worker_dies
            a_tied_worker_that_is_killed_is_found_at_once
            a_tied_worker_is_back_within_the_grace
            attempts_are_at_random_distances);
        crate::clients::about!($client, endings;
            a_refusal_ends_the_start
            a_refusal_takes_the_registration_back
            a_bad_connection_is_refused_at_once
            a_stop_before_the_start_changes_nothing
            the_end_of_the_program_deregisters
            a_signal_deregisters
            a_signal_before_the_first_heartbeat_deregisters
            a_frozen_server_holds_up_the_end_for_two_deadlines
            after_the_stop_a_signal_ends_the_program_as_ever
            a_handler_of_the_program_s_own_goes_first);
    };
}
use about;
