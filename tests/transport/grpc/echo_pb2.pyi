from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Ask(_message.Message):
    __slots__ = ("text", "sleep", "count", "fail", "fail_first", "fail_after", "deep")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SLEEP_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FAIL_FIELD_NUMBER: _ClassVar[int]
    FAIL_FIRST_FIELD_NUMBER: _ClassVar[int]
    FAIL_AFTER_FIELD_NUMBER: _ClassVar[int]
    DEEP_FIELD_NUMBER: _ClassVar[int]
    text: str
    sleep: float
    count: int
    fail: str
    fail_first: int
    fail_after: int
    deep: bool
    def __init__(self, text: _Optional[str] = ..., sleep: _Optional[float] = ..., count: _Optional[int] = ..., fail: _Optional[str] = ..., fail_first: _Optional[int] = ..., fail_after: _Optional[int] = ..., deep: bool = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("text", "deadline_ms", "trace_id", "attempt")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    text: str
    deadline_ms: int
    trace_id: str
    attempt: int
    def __init__(self, text: _Optional[str] = ..., deadline_ms: _Optional[int] = ..., trace_id: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...
