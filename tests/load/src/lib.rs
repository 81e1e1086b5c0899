//! Load generator and floors of `gb6 bench`.
