//! geo-config/plan
