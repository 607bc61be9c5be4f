"""Reference -> Trials: studies that ask, tell and resume, over one pool."""
