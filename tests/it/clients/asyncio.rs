//! The Python client in an event loop.

super::about!(super::program::Client::Asyncio);
super::about!(
    super::program::Client::Asyncio, endings;
    a_forked_child_has_no_part_in_the_worker
    a_worker_may_be_made_before_the_fork
);
