package gateway

import "slices"

// Transform makes of one record none, one or several, on their way from a
// source to the queue.
type Transform interface {
	// Apply calls emit for each record that becomes of r, or not at all to drop
	// it. r is stamped and tagged. It may be changed and emitted; what it points
	// to belongs to the source and must not be. r and what is emitted are valid
	// until emit returns. Records of one device keep the order in which they are
	// emitted. One goroutine at a time.
	Apply(r *Record, emit func(*Record))
}

// apply sends in.rec through the transform. When that panics the record goes
// on as it was handed in: a fault of ours must not lose what a device said.
func (in *Intake) apply(handed *Record) {
	before := in.emitted
	defer func() {
		if p := recover(); p != nil {
			in.link.panicked("transform", p)
			if in.emitted == before {
				in.rec = *handed
				in.stamp(&in.rec)
				in.put(&in.rec)
			}
		}
		if in.emitted == before {
			in.filtered++
		}
	}()
	in.rec = *handed
	in.stamp(&in.rec)
	in.transform.Apply(&in.rec, in.emit)
}

// stamp completes a record: source, times of receipt, tags.
func (in *Intake) stamp(r *Record) {
	r.Source = in.name
	if r.Received.IsZero() {
		r.Received, r.ClockTrusted = in.now, in.trusted
	}
	r.Tags = in.tag(r.Tags)
}

// put encodes r into the part of its lane, or of the lowest when it is large:
// then it must not hold up what is small.
func (in *Intake) put(r *Record) {
	in.emitted++
	bad := in.encode(r)
	lane := min(r.Lane.or(in.lane), in.lowest)
	if in.large > 0 && len(in.scratch) >= in.large {
		lane = in.lowest
	}
	d := in.parts[lane]
	switch {
	case d == nil:
		d = in.begin(lane)
	case d.batch.Len() >= partRecords || d.batch.Size() >= partBytes:
		full := d
		d = in.begin(lane)
		in.send(full)
	}
	in.add(d, bad)
}

// begin begins a part of the delivery in a lane. The part before is not sent yet.
func (in *Intake) begin(lane Lane) *delivery {
	d, _ := in.free.Get().(*delivery)
	if d == nil {
		d = &delivery{in: in}
		d.finish = d.finished
	}
	if in.newest != nil {
		if in.newest.joint == nil {
			in.newest.joint = in.joint()
		}
		d.joint = in.newest.joint
	}
	d.lane, d.batch.Lazy = lane, in.lazy
	in.parts[lane], in.newest = d, d
	return d
}

// joint returns what joins the parts of a delivery.
func (in *Intake) joint() *joint {
	if j, ok := in.joints.Get().(*joint); ok {
		return j
	}
	return &joint{}
}

// tag joins the configured tags with those of a record. A configured key
// cannot be replaced by what a device sends.
func (in *Intake) tag(own []Tag) []Tag {
	if len(own) == 0 {
		return in.tags
	}
	if len(in.tags) == 0 {
		return own
	}
	in.tagged = joinTags(in.tagged[:0], in.tags, own)
	return in.tagged
}

// joinTags appends fixed to dst, and what of own has other keys.
func joinTags(dst, fixed, own []Tag) []Tag {
	dst = append(dst, fixed...)
	for _, t := range own {
		if !slices.ContainsFunc(fixed, func(f Tag) bool { return f.Key == t.Key }) {
			dst = append(dst, t)
		}
	}
	return dst
}
