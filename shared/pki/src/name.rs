//! Names in certificates: a device's subject, a CA's, a server's. Writer and reader together.
