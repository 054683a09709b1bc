//! The Python client in a program of threads.

super::about!(super::program::Client::Threads);
super::about!(
    super::program::Client::Threads, endings;
    a_forked_child_has_no_part_in_the_worker
    a_worker_may_be_made_before_the_fork
);
