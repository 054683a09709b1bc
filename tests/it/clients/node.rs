//! The client for Node.

super::about!(super::program::Client::Node);
