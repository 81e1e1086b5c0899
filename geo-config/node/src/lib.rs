//! geo-config/node
