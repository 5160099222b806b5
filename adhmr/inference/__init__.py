"""People in ordinary pictures: their boxes, a trained model's hypotheses of them, and the files made of these."""
