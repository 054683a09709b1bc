//! The Python client in an event loop.

super::about!(super::program::Client::Asyncio);
