"""The body: skeleton, body model, kinematics, camera, the codec of x0 and the metrics. Nothing here learns."""

from adhmr.body.body_model import BodyModel, BodyOutput, JointRegressor
from adhmr.body.codec import PoseCodec
from adhmr.body.smplx_body import SmplxBody

__all__ = ["BodyModel", "BodyOutput", "JointRegressor", "PoseCodec", "SmplxBody"]
