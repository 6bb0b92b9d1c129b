"""What a person or a cluster touches: command line, tracking, registry, evaluation, anchors, promotion, reports."""
