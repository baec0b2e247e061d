// Package observe makes one World of what libvirt says and of what the files say: all that
// a decision rests on, as it was at one moment.
//
//	o := &observe.Observer{Host: host, Inspect: inspect, StateDir: dir}
//	w, err := o.Observe(ctx)
//
// It changes nothing. Whatever a decision has to know is recorded here, even where a name
// leads to, so that a World that was saved is decided as the one that was seen. What cannot
// be read stands in doubt (Strange), and keeps what it could name.
package observe
