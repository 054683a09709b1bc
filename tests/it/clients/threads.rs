//! The Python client in a program of threads.

super::about!(super::program::Client::Threads);
