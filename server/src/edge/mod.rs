//! The edge: where devices meet the server, and the only room that sees their sockets.

pub mod farewell;
pub mod limits;
pub mod mqtt;
pub mod roster;

pub use farewell::Farewell;
pub use roster::{
    Arrival, CloseWait, Closed, DeliverError, Delivered, Downlink, Protocol, Roster, SessionInfo,
};
