"""Task vectors and steering: directions and tasks as vectors, what they do and what they cost."""

from cutaway.methods.task_vectors.arithmetic import WeightVector, combined, weight_vector
from cutaway.methods.task_vectors.drawing_steering import drawing_steering
from cutaway.methods.task_vectors.heads import FunctionVector, function_vector
from cutaway.methods.task_vectors.steering import Steering, steering
from cutaway.methods.task_vectors.transfer import Transfer, task_transfer
from cutaway.methods.task_vectors.vectors import SteeringVector, TaskVector, steering_vector, task_vector

__all__ = [
    "FunctionVector", "Steering", "SteeringVector", "TaskVector", "Transfer", "WeightVector", "combined",
    "drawing_steering", "function_vector", "steering", "steering_vector", "task_transfer", "task_vector",
    "weight_vector",
]  # fmt: skip
