//! The guard against the parser that it guards, and against streams that behave badly.

mod frames;
mod hostile;
mod parser;
mod returned;
mod secrets;
mod stream;
