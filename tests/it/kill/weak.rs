//! weak
