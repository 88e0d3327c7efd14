#![doc = include_str!("README.md")]

pub mod disk;
pub mod domain;
pub mod telemetry;

pub mod model;
pub mod text;

pub mod adapter;
pub mod backbone;

pub mod engine;
pub mod training;

pub mod serving;

pub mod transport;

pub mod app;
