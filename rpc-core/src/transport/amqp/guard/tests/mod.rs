//! Tests of the guard with lapin's parser, and with streams that misbehave.

mod frames;
mod hostile;
mod parser;
mod returned;
mod secrets;
mod stream;
